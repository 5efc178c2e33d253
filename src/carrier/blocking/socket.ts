/** The doorbell line of a connection whose thread blocks: not watched, but read by the thread while it waits. */
import { isMainThread } from "node:worker_threads";
import { Code, ConnectError } from "@connectrpc/connect";
import { nowMs } from "../../os/timers.js";
import type { HandshakeMessage } from "../../wire/hello.js";
import { HandshakeReader } from "../handshake-reader.js";
import { withRetryability } from "../retryability.js";
import type { DoorbellListener } from "../shm/doorbell-line.js";
import { DoorbellSocket } from "../shm/doorbell-socket.js";

/** What `waitReadable` reports. */
const READABLE = 1;
export const HUNG_UP = 2;
/**
 * SUBTLE: `worker.terminate()` does not interrupt a system call but waits for the thread. So a worker returns to
 * JavaScript now and then, where it can be terminated. A main thread is terminated by signals, whose default action
 * needs nothing from us.
 */
const PORTION_MS = isMainThread ? Infinity : 50;

export class BlockingSocket extends DoorbellSocket {
  /** Receives one whole handshake message, and no byte past it. @throws ConnectError; `tooLate()` after `deadline` */
  receive(descriptors: number[], deadline: number, tooLate: () => ConnectError): HandshakeMessage {
    const reader = new HandshakeReader();
    for (;;) {
      const message = this.readHandshake(reader, descriptors);
      if (message !== undefined) return message;
      const found = this.wait(deadline);
      if (found === 0) throw tooLate();
      // The peer hung up, and nothing is left to read.
      if (found === HUNG_UP)
        throw withRetryability(
          new ConnectError("the peer closed the connection during the handshake", Code.Unavailable),
          "draining",
        );
    }
  }

  handOver(carrier: DoorbellListener): void {
    this.carrier = carrier;
  }

  /**
   * Sleeps until something is on the line, and returns what, as `waitReadable` does.
   * @param until when to return 0, as `performance.now()` has it
   */
  wait(until: number): number {
    for (;;) {
      const left = Math.max(until - nowMs(), 0);
      const found = this.addon.waitReadable(this.descriptor, Math.min(left, PORTION_MS));
      if (found !== 0 || left <= PORTION_MS) return found;
    }
  }

  /** Hands what `wait` found to the carrier. */
  deliver(found: number): void {
    if (found !== 0 && this.carrier !== undefined)
      this.onDoorbell(this.carrier, (found & READABLE) !== 0, (found & HUNG_UP) !== 0);
  }

  keepAlive(): void {
    // The event loop does not watch this socket.
  }
}
