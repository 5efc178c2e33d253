/**
 * A Unix socket that the addon holds and the event loop watches. Descriptors travel over it with the handshake's
 * messages. Afterwards it is the doorbell line of shared memory.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon, WatchHandle } from "../../os/addon.js";
import { setImmediate } from "../../os/timers.js";
import type { HandshakeMessage } from "../../wire/hello.js";
import { HandshakeReader } from "../handshake-reader.js";
import type { DoorbellListener } from "./doorbell-line.js";
import { DoorbellSocket } from "./doorbell-socket.js";

export class ControlSocket extends DoorbellSocket {
  private readonly watch: WatchHandle;
  private waiting: { onReadable: () => void; fail: (error: Error) => void } | undefined;

  /** Takes `descriptor` over, also when it throws. */
  constructor(addon: Addon, descriptor: number) {
    super(addon, descriptor);
    try {
      this.watch = addon.watch(descriptor, (readable, hangup) => this.onEvent(readable, hangup));
    } catch (error) {
      addon.closeDescriptor(descriptor);
      throw error;
    }
  }

  private onEvent(readable: boolean, hangup: boolean): void {
    if (hangup) this.hungUp = true;
    if (this.carrier !== undefined) this.onDoorbell(this.carrier, readable, hangup);
    else if (this.waiting !== undefined) this.waiting.onReadable();
    // Nobody listens, and a level-triggered event would come again at once and for ever.
    else if (hangup) this.close();
  }

  /** Receives one whole handshake message, and no byte past it. @throws ConnectError */
  receive(descriptors: number[], signal: AbortSignal): Promise<HandshakeMessage> {
    const reader = new HandshakeReader();
    return new Promise<HandshakeMessage>((resolve, reject) => {
      const settle = (act: () => void) => {
        this.waiting = undefined;
        signal.removeEventListener("abort", onAbort);
        act();
      };
      const onAbort = () => settle(() => reject(signal.reason as Error));
      const onReadable = () => {
        try {
          const message = this.readHandshake(reader, descriptors);
          if (message !== undefined) settle(() => resolve(message));
        } catch (error) {
          settle(() => reject(error instanceof Error ? error : new Error(String(error))));
        }
      };
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      this.waiting = { onReadable, fail: (error) => settle(() => reject(error)) };
      onReadable();
    });
  }

  /** Sends a last message and closes. A peer that is gone already hears nothing. */
  refuse(message: HandshakeMessage): void {
    if (this.closed) return;
    try {
      this.send(message);
    } catch {
      // It hung up.
    }
    this.close();
  }

  /** Ends the watch. The descriptor belongs to the caller from now on. */
  release(): number {
    this.closed = true;
    this.addon.closeWatch(this.watch);
    return this.descriptor;
  }

  /** The handshake is over: from now on events are doorbells of `carrier`. */
  handOver(carrier: DoorbellListener): void {
    this.carrier = carrier;
    this.addon.unrefWatch(this.watch);
    // The peer may have hung up while nobody listened.
    if (this.hungUp) setImmediate(() => carrier.onHangup());
  }

  keepAlive(on: boolean): void {
    if (this.closed) return;
    if (on) this.addon.refWatch(this.watch);
    else this.addon.unrefWatch(this.watch);
  }

  override close(): void {
    if (this.closed) return;
    // The watch must be closed before its descriptor.
    this.addon.closeWatch(this.watch);
    super.close();
    this.waiting?.fail(new ConnectError("the connection was closed during the handshake", Code.Unavailable));
  }
}
