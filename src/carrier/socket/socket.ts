/**
 * The socket carrier: the frames of the protocol over a Unix or TCP stream socket, for connections without shared
 * memory. Plain TypeScript. Ties the receiving side (`SocketFrameReader`) and the sending side (`WriteQueue`) to the
 * life of one connection.
 *
 * SOCKET-6  The receiver is called in the async context of the module's load, as by the poller (POLL-3). The socket is
 *           made there, and callbacks of a user's write return there.
 * SOCKET-7  Frames that arrived before the peer went are delivered before the connection ends.
 */
import { Loan } from "../../memory/payload/loan.js";
import { Receiving } from "../../memory/receive/receiving.js";
import { Violation } from "../../memory/shm/violation.js";
import { setImmediate } from "../../os/timers.js";
import { FLAG } from "../../wire/frame.js";
import type { Parts } from "../../wire/parts.js";
import { closedBy } from "../carrier.js";
import type { Carrier, CarrierClosed, CarrierStats, FrameReceiver, SpanSource } from "../carrier.js";
import { inRootContext } from "../poll/root-context.js";
import { SocketFrameReader } from "./frame-reader.js";
import { WriteQueue } from "./write-queue.js";
import type { StreamSocket } from "./stream-socket.js";

/**
 * Size of the largest fragment, in bytes. Small messages wait behind at most two of them. At the end of each the socket
 * runs empty: at a quarter of this size, messages of 16 MiB lost a sixth of their throughput. A little more than a power
 * of two, so that a field of 4 MiB does not need a second fragment for its tag.
 */
const FRAGMENT_BYTES_MAX = (4 << 20) + (16 << 10);
/**
 * Such fragments are copied if the socket does not take all of them at once (SOCKET-9). Longer ones leave their last
 * bytes to another fragment, which costs less.
 */
const BORROWED_END_BYTES_MAX = 256 << 10;
/** Already resolved: continuing in the next microtask allocates nothing but the reaction. */
const NEXT_MICROTASK: Promise<void> = Promise.resolve();

export class SocketCarrier implements Carrier {
  readonly name = "socket";
  readonly reason: string | undefined;
  readonly trust = undefined;
  readonly fragmentBytesMax = FRAGMENT_BYTES_MAX;
  readonly borrowedEndBytesMax = BORROWED_END_BYTES_MAX;
  readonly fragmentFlag = FLAG.follows;
  readonly blocks = undefined;
  readonly receiving = new Receiving();
  readonly spanSource: SpanSource = { receiving: this.receiving, takeSpan: noSpan };
  closed = false;
  private readonly stream: StreamSocket;
  private readonly writeQueue: WriteQueue;
  private frameReader: SocketFrameReader | undefined;
  private receiver: FrameReceiver | undefined;
  private awaiting = false;
  /** The connection was asked whether it is idle when it was not, so `onRoom` is due when it is. */
  private idleAwaited = false;
  private flushing = false;
  private readonly flush = () => {
    this.flushing = false;
    this.writeQueue.flush();
    // Sends that wait go on in another turn, or a peer that reads fast could keep this one from ending.
    if ((this.awaiting || this.idleAwaited) && !this.writeQueue.writing && !this.closed) setImmediate(this.onTaken);
  };
  private readonly onTaken = () => inRootContext(() => this.onWritten());

  /** Takes over `stream`. @param reason why there is no shared memory */
  constructor(stream: StreamSocket, reason?: string) {
    this.stream = stream;
    this.reason = reason;
    this.writeQueue = new WriteQueue(
      stream.socket,
      this.receiving,
      () => this.onWritten(),
      (error) => inRootContext(() => this.close(closedBy(error))),
    );
    // Only open calls keep the process alive.
    stream.socket.unref();
  }

  start(receiver: FrameReceiver): void {
    this.receiver = receiver;
    this.frameReader = new SocketFrameReader(
      {
        isClosed: () => this.closed,
        onError: (error) => this.close(closedBy(error)),
        onPause: () => setImmediate(() => this.goOn()),
      },
      receiver,
      this.stream.chunk,
    );
    this.stream.attach(this.frameReader, (error) => inRootContext(() => this.onGone(error)));
  }

  // Sending.

  /** Ordinary memory, under the rules of loans. */
  loan(byteLength: number): Promise<Uint8Array> {
    return Promise.resolve(Loan.onHeap(byteLength));
  }

  get ringBytes(): Uint8Array {
    return this.writeQueue.staging.current.bytes;
  }

  get ringWords(): Int32Array {
    return this.writeQueue.staging.current.words;
  }

  get index(): number {
    return this.writeQueue.staging.current.index;
  }

  freeBytes(): number {
    return this.closed ? 0 : this.writeQueue.freeBytes();
  }

  commit(byteLength: number): void {
    this.writeQueue.commit(byteLength);
    if (this.flushing) return;
    this.flushing = true;
    // All frames of one tick share one system call.
    void NEXT_MICROTASK.then(this.flush);
  }

  placeFragment(source: Parts, byteLength: number): number {
    if (this.closed) return -1;
    // An error concerns only this message, because no part of the fragment is announced yet.
    return this.writeQueue.place(source, byteLength) ? 0 : -1;
  }

  /** All frames leave at the end of the tick. */
  publish(): void {}

  hurry(): void {
    this.writeQueue.flush();
  }

  keep(source: Parts): void {
    if (!this.closed) this.writeQueue.keep(source);
  }

  prewake(): void {}

  setWaitFor(space: boolean, blocks: boolean): void {
    this.awaiting = space || blocks;
  }

  get idle(): boolean {
    if (this.closed || this.writeQueue.unsentBytes === 0) return true;
    this.idleAwaited = true;
    return false;
  }

  requestPump(): void {
    this.awaiting = true;
    setImmediate(this.onTaken);
  }

  private onWritten(): void {
    if (this.closed) return;
    const idleAwaited = this.idleAwaited && this.writeQueue.unsentBytes === 0;
    if (idleAwaited) this.idleAwaited = false;
    try {
      if (this.awaiting || idleAwaited) this.receiver?.onRoom();
    } catch (error) {
      this.close(closedBy(error));
    }
  }

  // Life.

  private goOn(): void {
    if (this.closed) return;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- only a reader that was started pauses
    if (this.frameReader!.goOn() && !this.closed) this.stream.resume();
  }

  private onGone(error: Error | undefined): void {
    if (this.closed) return;
    this.frameReader?.finish();
    const detail =
      error === undefined
        ? "the peer closed the connection or died"
        : `the peer closed the connection or died (${error.message})`;
    this.close({ cause: "hangup", detail });
  }

  keepAlive(on: boolean): void {
    if (this.closed) return;
    if (on) this.stream.socket.ref();
    else this.stream.socket.unref();
  }

  close(reason: CarrierClosed): void {
    if (this.closed) return;
    this.closed = true;
    this.stream.close();
    this.writeQueue.close();
    this.frameReader?.close();
    this.receiver?.onClosed(reason);
  }

  stats(): CarrierStats {
    return {
      ringBytes: 0,
      arenaBytes: 0,
      arenaCommittedBytes: 0,
      arenaInUseBytes: 0,
      loans: 0,
      loanedBytes: 0,
      leases: this.receiving.leases,
      leasedBytes: this.receiving.leasedBytes,
      spansSentInPlace: 0,
      spansCopiedIn: 0,
      spansLeased: this.receiving.valuesLeased,
      spansCopiedOut: 0,
      unsentBytes: this.closed ? 0 : this.writeQueue.unsentBytes,
      framesSent: this.writeQueue.framesSent,
      framesReceived: this.frameReader?.framesReceived ?? 0,
      doorbellsRung: 0,
      doorbellsReceived: 0,
      sleeps: 0,
    };
  }
}

function noSpan(): never {
  throw new Violation("FRAME-4", "spans on a stream socket");
}
