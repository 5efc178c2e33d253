/** A large message on its way: parts that, joined up, are the message, and how far they are taken. */
export class Parts {
  readonly byteLength: number;
  private readonly parts: readonly Uint8Array[];
  private taken = 0;
  // Where the next byte is: in which part, and at which offset there.
  private part = 0;
  private partOffset = 0;

  constructor(parts: readonly Uint8Array[]) {
    this.parts = parts.filter((part) => part.length > 0);
    this.byteLength = parts.reduce((sum, part) => sum + part.length, 0);
  }

  get takenBytes(): number {
    return this.taken;
  }

  get leftBytes(): number {
    return this.byteLength - this.taken;
  }

  /** Copies the next `byteLength` bytes, which are there, to `target` at `offset`. @throws Error if their memory is gone meanwhile */
  copyTo(target: Uint8Array, offset: number, byteLength: number): void {
    for (let at = offset; at < offset + byteLength; ) {
      const slice = this.next(offset + byteLength - at);
      target.set(slice, at);
      at += slice.length;
    }
  }

  /** The next `byteLength` bytes, which are there, as they lie: appended to `target`, in order. @throws Error like `copyTo` */
  takeTo(target: Uint8Array[], byteLength: number): void {
    for (let left = byteLength; left > 0; ) {
      const slice = this.next(left);
      target.push(slice);
      left -= slice.length;
    }
  }

  private next(bytesMax: number): Uint8Array {
    const part = this.parts[this.part];
    const to = Math.min(part.length, this.partOffset + bytesMax);
    if (part.length === 0) throw goneMeanwhile();
    const slice = part.subarray(this.partOffset, to);
    this.taken += slice.length;
    this.partOffset = to;
    if (to === part.length) {
      this.part++;
      this.partOffset = 0;
    }
    return slice;
  }
}

/** For bytes that were to be sent, and are detached. */
export function goneMeanwhile(): Error {
  return new Error("bytes that were being sent lost their memory: their ArrayBuffer was detached before the call was over (a lease that ended, or a transfer)");
}
