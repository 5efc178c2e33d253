/**
 * Reads a socket by its "data" events and copies the bytes to the memory that its reader names: for runtimes and
 * sockets that cannot be told where to read to. The reader is asked, and may pause, exactly as without the copy
 * (STREAM-SOCKET-1).
 */
import type { Socket } from "node:net";
import { setImmediate } from "../../os/timers.js";
import type { StreamReader } from "./stream-reader.js";

export class CopyingReads {
  private readonly socket: Socket;
  private readonly reader: StreamReader;
  private target: Uint8Array;
  /** Chunks that came and were not taken yet. */
  private readonly held: Uint8Array[] = [];
  /** Bytes of the first chunk in `held` that were taken. */
  private taken = 0;
  private paused = false;
  private resuming = false;
  private delivering = false;
  private afterwards: (() => void) | undefined;

  constructor(socket: Socket, reader: StreamReader) {
    this.socket = socket;
    this.reader = reader;
    this.target = reader.target();
    socket.on("data", (chunk: Uint8Array) => {
      this.held.push(chunk);
      if (!this.paused && !this.delivering) this.deliver();
    });
  }

  private deliver(): void {
    this.delivering = true;
    while (this.held.length > 0 && !this.paused) {
      const [chunk] = this.held;
      const byteLength = Math.min(chunk.length - this.taken, this.target.length);
      this.target.set(chunk.subarray(this.taken, this.taken + byteLength));
      this.taken += byteLength;
      if (this.taken === chunk.length) {
        this.held.shift();
        this.taken = 0;
      }
      if (!this.reader.received(byteLength)) this.pause();
      this.target = this.reader.target();
    }
    this.delivering = false;
    if (this.held.length > 0) return;
    const { afterwards } = this;
    this.afterwards = undefined;
    afterwards?.();
  }

  private pause(): void {
    this.paused = true;
    this.socket.pause();
  }

  /** Reads on, in a later turn. */
  resume(): void {
    if (this.resuming) return;
    if (this.held.length === 0) {
      this.paused = false;
      this.socket.resume();
      return;
    }
    this.resuming = true;
    setImmediate(() => {
      this.resuming = this.paused = false;
      this.deliver();
      if (!this.paused) this.socket.resume();
    });
  }

  /** Calls `act` when the reader has taken all bytes that came: now, or later. */
  afterDelivery(act: () => void): void {
    if (this.held.length === 0) act();
    else this.afterwards ??= act;
  }

  /** Discards what is held. */
  close(): void {
    this.held.length = this.taken = 0;
    this.afterwards = undefined;
  }
}
