/**
 * A `net.Socket` as the handshake and the socket carrier use it. Bytes are read straight into memory that the reader
 * names. Where a runtime insists on buffers of its own, they are copied there. Owns the socket.
 *
 * STREAM-SOCKET-1  A reader is asked for its next target right after it took bytes, and at no other time. SUBTLE: so
 *                  after a pause the first bytes still go to the target that it named before the pause.
 * STREAM-SOCKET-2  What the peer sent before it went is read before the socket is closed, also if a write fails first.
 */
import type { OnReadOpts, SocketConstructorOpts } from "node:net";
import { Socket } from "node:net";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon } from "../../os/addon.js";
import { otherRuntime } from "../../os/runtime.js";
import { clearTimeout, setImmediate, setTimeout } from "../../os/timers.js";
import { FRAME_BYTES_MAX } from "../../wire/frame.js";
import type { HandshakeMessage } from "../../wire/hello.js";
import { encodeHandshake } from "../../wire/hello.js";
import type { Address } from "../address.js";
import { reachable } from "../address.js";
import { HandshakeReader } from "../handshake-reader.js";
import { CopyingReads } from "./copying-reads.js";
import { takeHandle } from "./node-handle.js";
import type { StreamReader } from "./stream-reader.js";

/**
 * More than a Unix socket's buffer holds by default, so that one system call reads everything; room for a whole frame
 * behind a part of another. The unused part takes no memory. Measured at 1 MiB: copying the beginning of a fragment out
 * of this buffer costs less than another system call for its header.
 */
const CHUNK_BYTES = 8 * FRAME_BYTES_MAX;
/** How long a refused peer has to read the reason. */
const LINGER_MS = 200;
/** Time after which a vanished host is noticed. Only TCP has this option. */
const TCP_KEEP_ALIVE_MS = 30_000;

/** Whether sockets can be told where to read to. If not, they bring memory of their own, which is copied. */
const READS_IN_PLACE = otherRuntime === undefined;

/**
 * STREAM-SOCKET-2. SUBTLE: Node destroys a socket whose write failed, and with it what has arrived but was not read
 * yet: the answers, or the refusal, that the peer sent before it closed. Two turns of the event loop read all of that.
 */
function destroyPatiently(socket: Socket): void {
  const destroy = socket.destroy.bind(socket);
  let waiting = false;
  socket.destroy = (error?: Error) => {
    const { syscall } = (error ?? {}) as NodeJS.ErrnoException;
    if ((syscall !== "write" && syscall !== "sendfile") || waiting) return destroy(error);
    waiting = true;
    setImmediate(() => setImmediate(() => destroy(error)));
    return socket;
  };
}

export class StreamSocket {
  readonly socket: Socket;
  /** Memory to read into, unless the reader names other memory. */
  readonly chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  /** Undefined: the socket reads straight into its target. */
  private readonly copying: CopyingReads | undefined;
  private reader: StreamReader | undefined;
  private onGone: ((error: Error | undefined) => void) | undefined;
  private gone: { error: Error | undefined } | undefined;
  // The handshake.
  private handshake: HandshakeReader | undefined;
  private waiting: { resolve: (message: HandshakeMessage) => void; reject: (error: Error) => void } | undefined;
  private outcome: { message: HandshakeMessage } | { error: Error } | undefined;

  /**
   * @param from options to make a socket with, or a socket, which is read by copying
   * @param shakesHands whether the first bytes are a handshake message
   */
  private constructor(from: object | Socket, shakesHands: boolean, readsInPlace: boolean) {
    if (shakesHands) this.handshake = new HandshakeReader();
    if (readsInPlace) {
      const onread: OnReadOpts = { buffer: () => this.target(), callback: (byteLength) => this.received(byteLength) };
      // eslint-disable-next-line @typescript-eslint/no-misused-spread -- not a socket here, but options of one
      this.socket = new Socket({ ...from, onread } as SocketConstructorOpts);
    } else {
      this.socket = from instanceof Socket ? from : new Socket(from);
      this.copying = new CopyingReads(this.socket, {
        target: () => this.target(),
        received: (byteLength) => this.received(byteLength),
      });
    }
    destroyPatiently(this.socket);
    this.socket.on("error", (error) => this.onEnd(error));
    this.socket.on("end", () => this.onEnd(undefined));
    this.socket.on("close", () => this.onEnd(undefined));
  }

  /** Connects. @throws the system's error, or the reason of `signal` */
  static connect(address: Address, signal: AbortSignal, readsInPlace = READS_IN_PLACE): Promise<StreamSocket> {
    return new Promise((resolve, reject) => {
      const where = address.kind === "unix" ? { path: reachable(address.path) } : address;
      const stream = new StreamSocket({}, true, readsInPlace);
      const { socket } = stream;
      const settle = (act: () => void) => {
        signal.removeEventListener("abort", onAbort);
        socket.removeListener("error", onError);
        socket.removeListener("connect", onConnect);
        act();
      };
      const fail = (error: Error) =>
        settle(() => {
          socket.destroy();
          reject(error);
        });
      const onAbort = () => fail(signal.reason as Error);
      const onError = (error: Error) => fail(error);
      const onConnect = () => settle(() => resolve(stream));
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      socket.on("error", onError);
      socket.on("connect", onConnect);
      if ("path" in where) {
        socket.connect(where);
      } else {
        const { host, port } = where;
        // `connect` ignores these as options.
        socket.setNoDelay(true);
        socket.setKeepAlive(true, TCP_KEEP_ALIVE_MS);
        socket.connect({ host, port });
      }
    });
  }

  /**
   * Takes over a connection that a `net.Server` accepted with `pauseOnConnect`. Node takes the memory to read into only
   * when a socket is made, so the accepted socket's handle goes to a new one. If there is no such handle, bytes are
   * copied.
   */
  static accept(accepted: Socket, readsInPlace = READS_IN_PLACE): StreamSocket {
    const handle = readsInPlace ? takeHandle(accepted) : undefined;
    const stream =
      handle === undefined
        ? new StreamSocket(accepted, true, false)
        : new StreamSocket({ handle, readable: true, writable: true, pauseOnCreate: true }, true, true);
    if (stream.socket.remoteAddress !== undefined) {
      stream.socket.setNoDelay(true);
      stream.socket.setKeepAlive(true, TCP_KEEP_ALIVE_MS);
    }
    stream.resume();
    return stream;
  }

  /**
   * Takes over a connected descriptor of the addon, after a handshake. @throws Error if Node rejects it; then it still
   * belongs to the caller
   */
  static fromDescriptor(addon: Addon, descriptor: number): StreamSocket {
    return addon.handOverDescriptor(
      descriptor,
      (fd) => new StreamSocket({ fd, readable: true, writable: true, pauseOnCreate: true }, false, READS_IN_PLACE),
    );
  }

  /** Host and port of the other end of a TCP connection. */
  get peerAddress(): string {
    const { remoteAddress, remotePort } = this.socket;
    return remoteAddress === undefined ? "unknown" : `${remoteAddress}:${remotePort}`;
  }

  private target(): Uint8Array {
    return this.reader?.target() ?? this.handshake?.space() ?? this.chunk;
  }

  private received(byteLength: number): boolean {
    if (this.reader !== undefined) return this.reader.received(byteLength);
    if (this.handshake === undefined) return false;
    try {
      const message = this.handshake.took(byteLength);
      if (message === undefined) return true;
      this.settle({ message });
    } catch (error) {
      this.settle({ error: error as Error });
    }
    return false;
  }

  private onEnd(error: Error | undefined): void {
    if (this.copying === undefined) this.ended(error);
    else this.copying.afterDelivery(() => this.ended(error));
  }

  private ended(error: Error | undefined): void {
    if (this.gone === undefined) {
      this.gone = { error };
      if (this.handshake !== undefined)
        this.settle({
          error:
            error === undefined || (error as NodeJS.ErrnoException).code === "EPIPE" ? this.handshake.ended() : error,
        });
    }
    this.onGone?.(error);
  }

  private settle(outcome: { message: HandshakeMessage } | { error: Error }): void {
    this.handshake = undefined;
    this.outcome = outcome;
    const { waiting } = this;
    this.waiting = undefined;
    if (waiting === undefined) return;
    if ("message" in outcome) waiting.resolve(outcome.message);
    else waiting.reject(outcome.error);
  }

  /** Receives one whole handshake message, and no byte past it. @throws ConnectError, or the system's error */
  receive(_descriptors: number[], signal: AbortSignal): Promise<HandshakeMessage> {
    return new Promise<HandshakeMessage>((resolve, reject) => {
      const onAbort = () => {
        this.waiting = undefined;
        reject(signal.reason as Error);
      };
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      const done = () => signal.removeEventListener("abort", onAbort);
      this.waiting = {
        resolve: (message) => (done(), resolve(message)),
        reject: (error) => (done(), reject(error)),
      };
      if (this.outcome !== undefined) this.settle(this.outcome);
    });
  }

  /** Sends a handshake message. */
  send(message: HandshakeMessage): void {
    this.socket.write(encodeHandshake(message));
  }

  /** Sends a last message, and closes when the peer has read it or has had the time to. */
  refuse(message: HandshakeMessage): void {
    this.handshake = undefined;
    this.reader = { target: () => this.chunk, received: () => true };
    const timer = setTimeout(() => this.close(), LINGER_MS).unref();
    this.onGone = () => {
      clearTimeout(timer);
      this.close();
    };
    this.socket.unref();
    this.socket.end(encodeHandshake(message));
    this.resume();
    if (this.gone !== undefined) this.onGone(undefined);
  }

  /**
   * The handshake is over. From now on `reader` takes what comes. `onGone` is called, possibly more than once, when no
   * more comes.
   */
  attach(reader: StreamReader, onGone: (error: Error | undefined) => void): void {
    this.reader = reader;
    this.onGone = onGone;
    this.resume();
    const { gone } = this;
    if (gone !== undefined) setImmediate(() => onGone(gone.error));
  }

  /** Continues to read after a reader returned false. */
  resume(): void {
    if (this.copying === undefined) this.socket.resume();
    else this.copying.resume();
  }

  close(): void {
    this.copying?.close();
    this.socket.destroy();
    this.waiting?.reject(new ConnectError("the connection was closed during the handshake", Code.Unavailable));
    this.waiting = undefined;
  }
}
