/**
 * A Unix socket in the hands of the addon: descriptors travel over it with the handshake's messages, and afterwards it is
 * the doorbell line of shared memory. Owns the descriptor.
 */
import { constants } from "node:os";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon, WatchHandle } from "../os/addon.js";
import type { HandshakeMessage } from "../wire/hello.js";
import { encodeHandshake } from "../wire/hello.js";
import { HandshakeReader, notIsthmus } from "./handshake-reader.js";
import { inRootContext } from "./root-context.js";
import type { DoorbellLine, ShmCarrier } from "./shm.js";
import { StreamSocket } from "./stream-socket.js";

/** A ring's and an arena's. */
const DESCRIPTORS_MAX = 2;

export class ControlSocket implements DoorbellLine {
  readonly addon: Addon;
  readonly descriptor: number;
  private readonly watch: WatchHandle;
  private closed = false;
  private carrier: ShmCarrier | undefined;
  private waiting: { onReadable: () => void; fail: (error: Error) => void } | undefined;
  private hungUp = false;
  /** Empty between events. */
  private readonly received: number[] = [];

  /** Takes `descriptor` over, also when it throws. */
  constructor(addon: Addon, descriptor: number) {
    this.addon = addon;
    this.descriptor = descriptor;
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
    // Nobody is listening: a level-triggered event would come again at once and for ever.
    else if (hangup) this.close();
  }

  private onDoorbell(carrier: ShmCarrier, readable: boolean, hangup: boolean): void {
    // What is left is reported again.
    if (readable && !hangup && !carrier.takesDescriptors()) return;
    const taken = readable && !this.closed ? this.clear(carrier) : 0;
    if (taken > 0) carrier.onDoorbell(taken);
    if (taken === -1 || hangup) carrier.onHangup();
  }

  /** Takes what is there, and returns how many bytes were rings; −1: the peer hung up, and nothing is there. */
  private clear(carrier: ShmCarrier): number {
    const taken = this.addon.clearDoorbell(this.descriptor, this.received);
    carrier.onDescriptors(this.received.splice(0));
    if (taken === -2) carrier.close({ cause: "violation", detail: "protocol violation BELL-5: unknown bytes on the control socket" });
    if (taken === -3) carrier.close({ cause: "failure", detail: "a descriptor that the peer sent could not be taken: this process has too many open" });
    return taken;
  }

  fetch(): boolean {
    if (this.closed || this.carrier === undefined) return false;
    const { arrivals } = this.carrier;
    const taken = this.clear(this.carrier);
    if (taken > 0) this.carrier.onDoorbell(taken);
    return taken > 0 || this.carrier.arrivals > arrivals;
  }

  sendDescriptor(descriptor: number): boolean {
    if (this.closed) return false;
    return this.addon.sendDescriptor(this.descriptor, descriptor) === 0;
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
          for (;;) {
            const got = this.addon.receiveMessage(this.descriptor, reader.space());
            descriptors.push(...got.descriptors);
            // Each byte could bring more of them.
            if (descriptors.length > DESCRIPTORS_MAX) throw notIsthmus(`the peer sent ${descriptors.length} descriptors`);
            if (got.byteLength < 0) {
              if (this.hungUp) throw new ConnectError("the peer closed the connection during the handshake", Code.Unavailable);
              return;
            }
            if (got.byteLength === 0) throw reader.ended();
            const message = reader.took(got.byteLength);
            if (message === undefined) continue;
            settle(() => resolve(message));
            return;
          }
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

  /** Sends a handshake message; it is far smaller than any socket buffer. @throws SystemError */
  send(message: HandshakeMessage, descriptors: readonly number[] = []): void {
    const bytes = encodeHandshake(message);
    const sent = this.addon.sendMessage(this.descriptor, bytes, descriptors);
    if (sent !== bytes.length) {
      throw new ConnectError(`the handshake could not be sent: the socket took ${sent} of ${bytes.length} bytes`, Code.Unavailable);
    }
  }

  /** Sends a last message and closes; a peer that is gone already hears nothing. */
  refuse(message: HandshakeMessage): void {
    if (this.closed) return;
    try {
      this.send(message);
    } catch {
      // It hung up.
    }
    this.close();
  }

  /** Frames come on the socket itself: the descriptor is the result's from now on. @throws Error if Node does not take it */
  toStream(): StreamSocket {
    this.closed = true;
    this.addon.closeWatch(this.watch);
    try {
      return inRootContext(() => StreamSocket.fromDescriptor(this.descriptor));
    } catch (error) {
      this.addon.closeDescriptor(this.descriptor);
      throw error;
    }
  }

  /** From now on events are doorbells of `carrier`. */
  handOver(carrier: ShmCarrier): void {
    this.carrier = carrier;
    this.addon.unrefWatch(this.watch);
    // The hang-up may have come while nobody listened.
    if (this.hungUp) setImmediate(() => carrier.onHangup());
  }

  ring(): boolean {
    const failure = -this.addon.ringDoorbell(this.descriptor);
    // A full buffer means that the peer has unread rings and will wake; a dead peer shows as a hang-up.
    return failure !== constants.errno.ENOBUFS && failure !== constants.errno.ENOMEM;
  }

  keepAlive(on: boolean): void {
    if (this.closed) return;
    if (on) this.addon.refWatch(this.watch);
    else this.addon.unrefWatch(this.watch);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.addon.closeWatch(this.watch);
    this.addon.shutdownSocket(this.descriptor);
    this.addon.closeDescriptor(this.descriptor);
    this.waiting?.fail(new ConnectError("the connection was closed during the handshake", Code.Unavailable));
  }
}
