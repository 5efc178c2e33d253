/**
 * Frames on a stream socket, with as few copies and system calls as plain Node allows.
 *
 * Reading: into one static buffer of the process, so nothing is allocated per read or connection; a frame that arrived whole is handed out where it
 * lies. A frame that did not is put together in one reused buffer of its size, and the socket reads the rest of a large
 * one straight into it. There are two such buffers, because the microtasks that read a frame run after the read's
 * callback, when the next frame may have begun.
 *
 * Writing: the small frames of one turn are gathered in a staging buffer and leave with one `write`; a large frame's
 * data leaves from where it lies, in one `writev` with its header.
 *
 * Tried against it: a `write` of its own for each small frame; cork and uncork around all frames of a turn, one
 * `writev` of header and data each (slower up to a few KiB, faster from there, so it is used there); large data copied
 * behind its header (slower from 64 KiB); `data` events in place of `onread` (much slower for large frames: a new
 * buffer per read).
 */
import type { Socket } from "node:net";

const headerBytes = 12;
/** What one read takes at most; more than a Unix socket's buffer holds by default. */
const chunkBytes = 256 * 1024;
/** From here on, the rest of a frame is read straight into its place. */
const directBytesMin = 32 * 1024;
/** Up to here, data is copied behind its header into the staging buffer. */
const stagedBytesMax = 4 * 1024;
const stagingBytes = 128 * 1024;

export type OnFrame = (id: bigint, data: Uint8Array) => void;

/** What a read has put here is taken before the next read begins, of whichever socket. */
const chunk = Buffer.allocUnsafeSlow(chunkBytes);

/** Cuts what a socket receives into frames. */
export class FrameReader {
  readonly #onFrame: OnFrame;
  readonly #dataBytesMax: number;
  readonly #header = Buffer.allocUnsafeSlow(headerBytes);
  /** Bytes of an unfinished header; 0 within data. */
  #headerFilled = 0;
  /** The frame that is being put together: its data, and how much of it is there. */
  #partial: Buffer | null = null;
  #partialFilled = 0;
  readonly #spares: [Buffer, Buffer] = [Buffer.alloc(0), Buffer.alloc(0)];
  #spare = 0;

  constructor(dataBytesMax: number, onFrame: OnFrame) {
    this.#dataBytesMax = dataBytesMax;
    this.#onFrame = onFrame;
  }

  /** Where the next read goes. */
  target(): Buffer {
    const partial = this.#partial;
    if (partial === null || partial.length - this.#partialFilled < directBytesMin) return chunk;
    return partial.subarray(this.#partialFilled);
  }

  /** `byteLength` bytes were read into what `target` gave before, which is `bytes`. */
  received(byteLength: number, bytes: Buffer): void {
    if (bytes !== chunk) {
      this.#partialFilled += byteLength;
      this.#finishPartial();
      return;
    }
    let at = this.#resume(bytes, byteLength);
    while (byteLength - at >= headerBytes) {
      const dataLength = this.#dataLength(bytes, at);
      const dataAt = at + headerBytes;
      if (byteLength - dataAt < dataLength) {
        this.#begin(bytes, at, dataLength);
        at = dataAt + bytes.copy(this.#partial!, 0, dataAt, byteLength);
        this.#partialFilled = at - dataAt;
        return;
      }
      at = dataAt + dataLength;
      this.#onFrame(bytes.readBigUInt64LE(dataAt - 8), bytes.subarray(dataAt, at));
    }
    if (at < byteLength) this.#headerFilled = bytes.copy(this.#header, 0, at, byteLength);
  }

  /** Completes what the read before left unfinished. Returns where in `bytes` the next frame begins. */
  #resume(bytes: Buffer, byteLength: number): number {
    let at = 0;
    if (this.#headerFilled > 0) {
      at = bytes.copy(this.#header, this.#headerFilled, 0, Math.min(byteLength, headerBytes - this.#headerFilled));
      this.#headerFilled += at;
      if (this.#headerFilled < headerBytes) return byteLength;
      this.#headerFilled = 0;
      this.#begin(this.#header, 0, this.#dataLength(this.#header, 0));
    }
    if (this.#partial === null) return at;
    const copied = bytes.copy(this.#partial, this.#partialFilled, at, byteLength);
    this.#partialFilled += copied;
    this.#finishPartial();
    return at + copied;
  }

  #begin(header: Buffer, at: number, dataLength: number): void {
    header.copy(this.#header, 0, at, at + headerBytes);
    this.#spare ^= 1;
    if (this.#spares[this.#spare].length < dataLength) this.#spares[this.#spare] = Buffer.allocUnsafeSlow(dataLength);
    this.#partial = this.#spares[this.#spare].subarray(0, dataLength);
    this.#partialFilled = 0;
  }

  #finishPartial(): void {
    const partial = this.#partial!;
    if (this.#partialFilled < partial.length) return;
    this.#partial = null;
    this.#onFrame(this.#header.readBigUInt64LE(4), partial);
  }

  #dataLength(bytes: Buffer, at: number): number {
    const length = bytes.readUInt32LE(at) - 8;
    if (length < 0 || length > this.#dataBytesMax) throw new RangeError(`a frame of ${length} bytes`);
    return length;
  }
}

/** Puts frames on a socket. Nothing leaves before `flush`. */
export class FrameWriter {
  readonly #socket: Socket;
  #staging: Buffer = Buffer.allocUnsafeSlow(stagingBytes);
  #staged = 0;
  #corked = false;
  /** Staging buffers whose write has ended. */
  readonly #idle: Buffer[] = [];

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Data of more than `stagedBytesMax` bytes must stay unchanged until the frame was received. */
  send(id: bigint, data: Uint8Array): void {
    const inStaging = headerBytes + (data.length <= stagedBytesMax ? data.length : 0);
    if (this.#staged + inStaging > stagingBytes) this.#writeStaged();
    const staging = this.#staging;
    const at = this.#staged;
    staging.writeUInt32LE(8 + data.length, at);
    staging.writeBigUInt64LE(id, at + 4);
    this.#staged = at + inStaging;
    if (data.length <= stagedBytesMax) {
      staging.set(data, at + headerBytes);
      return;
    }
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
    }
    this.#writeStaged();
    this.#socket.write(data);
  }

  flush(): void {
    if (this.#staged > 0) this.#writeStaged();
    if (this.#corked) {
      this.#corked = false;
      this.#socket.uncork();
    }
  }

  #writeStaged(): void {
    const staging = this.#staging;
    this.#socket.write(staging.subarray(0, this.#staged), () => this.#idle.push(staging));
    this.#staging = this.#idle.pop() ?? Buffer.allocUnsafeSlow(stagingBytes);
    this.#staged = 0;
  }
}
