/**
 * Sends ranges of files on a stream socket, between the chunks that the socket itself writes. `sendfile` keeps their
 * bytes out of this process. Where it cannot be used, they go through one reused buffer. Owns a duplicate of the
 * socket's descriptor, which is closed with the connection.
 *
 * SENDFILE-1  It sends only while the socket has nothing left to write, and the socket is given nothing meanwhile. So
 *             the order is kept.
 * SENDFILE-2  If a range cannot be sent in full, the remaining announced bytes are sent as zeros. The message is then
 *             never completed (PARTS-1), and its call fails.
 */
import { read } from "node:fs";
import type { Socket } from "node:net";
import type { Addon, WatchHandle } from "../../os/addon.js";
import { isSystemError, loadAddon } from "../../os/addon.js";
import type { FileRange, Parts } from "../../wire/parts.js";
import { inRootContext } from "../poll/root-context.js";
import { descriptorOf } from "./node-handle.js";
import { zeroChunks } from "./zeros.js";

/** A range that is being sent. */
export interface FileOnItsWay {
  readonly range: FileRange;
  readonly source: Parts;
  sentBytes: number;
}

const COPY_BYTES = 256 << 10;

/** Errors of the socket, not of the file. The socket is broken, and its own events tell so too. */
const SOCKET_ERRORS = ["EPIPE", "ECONNRESET", "ENOTCONN", "ETIMEDOUT"];

export class FileSender {
  private readonly socket: Socket;
  /** Called in a later turn, when `send` is worth calling again. */
  private readonly onReady: () => void;
  /** Undefined: not looked for yet; −1: it cannot be had. */
  private descriptor: number | undefined;
  private addon: Addon | undefined;
  private watch: WatchHandle | undefined;
  private copy: Buffer | undefined;
  private copiedBytes = 0;
  private closed = false;

  constructor(socket: Socket, onReady: () => void) {
    this.socket = socket;
    this.onReady = onReady;
  }

  /**
   * Continues to send.
   * @returns "sent": nothing is left; "waits": `onReady` follows; otherwise chunks to be written to the socket before
   *   this is called again
   */
  send(file: FileOnItsWay): "sent" | "waits" | readonly Uint8Array[] {
    if (file.sentBytes === file.range.length) return "sent";
    if (file.source.failure !== undefined) return this.zeros(file);
    if (this.copiedBytes > 0) return this.copied(file);
    const descriptor = this.descriptorOfSocket();
    return descriptor >= 0 ? this.sendFile(file, descriptor) : this.startCopy(file);
  }

  private descriptorOfSocket(): number {
    if (this.descriptor !== undefined) return this.descriptor;
    this.descriptor = -1;
    const { addon } = loadAddon();
    const original = descriptorOf(this.socket);
    if (addon === undefined || original < 0) return -1;
    try {
      // The event loop watches the original for reading, and its number may be reused once the socket is closed.
      this.descriptor = addon.duplicateDescriptor(original);
      this.addon = addon;
    } catch {
      // No descriptor left.
    }
    return this.descriptor;
  }

  private sendFile(file: FileOnItsWay, to: number): "sent" | "waits" | readonly Uint8Array[] {
    const { range } = file;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is set with the descriptor
    const addon = this.addon!;
    try {
      while (file.sentBytes < range.length) {
        const left = range.length - file.sentBytes;
        const sent = range.file.through(range.byteOffset + file.sentBytes, (descriptor, offset) =>
          addon.sendFile(to, descriptor, offset, left),
        );
        if (sent < 0) {
          this.watch = addon.watchWritable(to, () => this.goOn());
          return "waits";
        }
        if (sent === 0) {
          failTooShort(file);
          return this.zeros(file);
        }
        file.sentBytes += sent;
      }
      return "sent";
    } catch (error) {
      if (!isSystemError(error) || !SOCKET_ERRORS.includes(error.code)) return this.startCopy(file);
      this.socket.destroy(error);
      return "waits";
    }
  }

  private startCopy(file: FileOnItsWay): "waits" {
    const { range } = file;
    const copy = (this.copy ??= Buffer.allocUnsafeSlow(COPY_BYTES));
    const length = Math.min(COPY_BYTES, range.length - file.sentBytes);
    // The message holds the file until no part of it is being sent.
    range.file.through(range.byteOffset + file.sentBytes, (descriptor, offset) =>
      read(descriptor, copy, 0, length, offset, (error, got) => {
        if (error !== null) file.source.failure = error;
        else if (got === 0) failTooShort(file);
        else this.copiedBytes = got;
        this.goOn();
      }),
    );
    return "waits";
  }

  private copied(file: FileOnItsWay): readonly Uint8Array[] {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `startCopy` made it
    const bytes = this.copy!.subarray(0, this.copiedBytes);
    file.sentBytes += this.copiedBytes;
    this.copiedBytes = 0;
    return [bytes];
  }

  /** SENDFILE-2 */
  private zeros(file: FileOnItsWay): readonly Uint8Array[] {
    const left = file.range.length - file.sentBytes;
    file.sentBytes = file.range.length;
    return zeroChunks(left);
  }

  private goOn(): void {
    this.watch = undefined;
    if (!this.closed) inRootContext(this.onReady);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    if (this.watch !== undefined) this.addon?.closeWatch(this.watch);
    if (this.descriptor !== undefined && this.descriptor >= 0) this.addon?.closeDescriptor(this.descriptor);
  }
}

function failTooShort({ range, source, sentBytes }: FileOnItsWay): void {
  const { byteOffset, length, file } = range;
  source.failure = file.tooShort(byteOffset + sentBytes, byteOffset + length);
}
