/**
 * A Unix socket that the addon holds: first for handshake messages with descriptors, later as the doorbell line. The
 * event loop watches it (`ControlSocket`), or a thread waits for it (`BlockingSocket`). Owns the descriptor.
 */
import { constants } from "node:os";
import { getSystemErrorName } from "node:util";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon, SystemError } from "../../os/addon.js";
import type { HandshakeMessage } from "../../wire/hello.js";
import { encodeHandshake } from "../../wire/hello.js";
import type { HandshakeReader } from "../handshake-reader.js";
import { notIsthmus } from "../handshake-reader.js";
import type { DoorbellLine, DoorbellListener } from "./doorbell-line.js";

/** One of a ring, one of an arena. */
const DESCRIPTORS_MAX = 2;

const { EAGAIN, ECONNRESET, ENOBUFS, ENOMEM, EPIPE } = constants.errno;
/** Linux's number, which Node does not name. */
const ETOOMANYREFS = 109;
/** Errors of sending that pass, or that show as a hang-up. */
const PASSING: ReadonlySet<number> = new Set([EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS, EPIPE, ECONNRESET]);

export abstract class DoorbellSocket implements DoorbellLine {
  readonly addon: Addon;
  readonly descriptor: number;
  protected closed = false;
  protected carrier: DoorbellListener | undefined;
  protected hungUp = false;
  /** Empty between events. */
  private readonly received: number[] = [];

  constructor(addon: Addon, descriptor: number) {
    this.addon = addon;
    this.descriptor = descriptor;
  }

  abstract keepAlive(on: boolean): void;

  /** The socket is readable, or the peer hung up, after the handshake. */
  protected onDoorbell(carrier: DoorbellListener, readable: boolean, hangup: boolean): void {
    // What is left is reported again later.
    if (readable && !hangup && !carrier.takesDescriptors()) return;
    const taken = readable && !this.closed ? this.clear(carrier) : 0;
    if (taken > 0) carrier.onDoorbell(taken);
    if (taken === -1 || hangup) carrier.onHangup();
  }

  /** Takes what is in the socket, and returns the number of rings; −1: the peer hung up, and nothing is left. */
  private clear(carrier: DoorbellListener): number {
    let taken: number;
    try {
      taken = this.addon.clearDoorbell(this.descriptor, this.received);
    } catch (error) {
      // Called by the event loop: an exception would end the process.
      const { message, syscall } = error as SystemError;
      carrier.close({ cause: "failure", detail: `the control socket failed: ${syscall}: ${message}` });
      return 0;
    }
    carrier.onDescriptors(this.received.splice(0));
    if (taken === -2)
      carrier.close({ cause: "violation", detail: "protocol violation BELL-5: unknown bytes on the control socket" });
    if (taken === -3)
      carrier.close({
        cause: "failure",
        detail: "a descriptor that the peer sent could not be received: this process has too many open",
      });
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
    const failure = -this.addon.sendDescriptor(this.descriptor, descriptor);
    if (failure === 0) return true;
    if (!PASSING.has(failure)) this.fail("sendmsg", failure);
    return false;
  }

  /** A system call on the socket has failed for good. The connection ends later, because a message may be being sent. */
  private fail(syscall: string, failure: number): void {
    this.carrier?.failSoon(`the control socket failed: ${syscall}: ${getSystemErrorName(-failure)}`);
  }

  /**
   * Takes the available bytes of a handshake message, and no byte past it. Undefined: more is to come.
   * @throws ConnectError
   */
  protected readHandshake(reader: HandshakeReader, descriptors: number[]): HandshakeMessage | undefined {
    for (;;) {
      const got = this.addon.receiveMessage(this.descriptor, reader.space());
      descriptors.push(...got.descriptors);
      // Each byte of a message could bring more of them.
      if (descriptors.length > DESCRIPTORS_MAX) throw notIsthmus(`the peer sent ${descriptors.length} descriptors`);
      if (got.byteLength < 0) {
        if (this.hungUp)
          throw new ConnectError("the peer closed the connection during the handshake", Code.Unavailable);
        return undefined;
      }
      if (got.byteLength === 0) throw reader.ended();
      const message = reader.took(got.byteLength);
      if (message !== undefined) return message;
    }
  }

  /** Sends a handshake message; it is far smaller than any socket buffer. @throws SystemError */
  send(message: HandshakeMessage, descriptors: readonly number[] = []): void {
    const bytes = encodeHandshake(message);
    const sent = this.addon.sendMessage(this.descriptor, bytes, descriptors);
    if (sent !== bytes.length) {
      throw new ConnectError(
        `the handshake could not be sent: the socket took ${sent} of ${bytes.length} bytes`,
        Code.Unavailable,
      );
    }
  }

  ring(): boolean {
    const failure = -this.addon.ringDoorbell(this.descriptor);
    if (failure !== 0 && !PASSING.has(failure) && !this.closed) this.fail("send", failure);
    // A full buffer means that the peer has unread rings and will wake.
    return failure !== ENOBUFS && failure !== ENOMEM;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    try {
      this.addon.shutdownSocket(this.descriptor);
    } catch {
      // The peer notices at the latest when the descriptor is closed.
    }
    this.addon.closeDescriptor(this.descriptor);
  }
}
