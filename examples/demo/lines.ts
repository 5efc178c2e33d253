/**
 * Cuts a stream of bytes into whole lines: pure, no I/O. What comes in fragments is put together once, when it is
 * whole.
 */

const NEWLINE = 0x0a;

/** Holds back the unfinished last line of what was pushed. */
export class WholeLines {
  private held: Buffer[] = [];
  private heldBytes = 0;

  /** Bytes of the unfinished line so far. */
  get pendingBytes(): number {
    return this.heldBytes;
  }

  /**
   * @returns all lines that are now whole, with their newlines; undefined if there is none. May be a view of `chunk`
   */
  push(chunk: Buffer): Buffer | undefined {
    const end = chunk.lastIndexOf(NEWLINE) + 1;
    if (end === 0) {
      this.hold(chunk);
      return undefined;
    }
    const head = chunk.subarray(0, end);
    const lines = this.heldBytes === 0 ? head : Buffer.concat([...this.held, head]);
    this.held = [];
    this.heldBytes = 0;
    this.hold(chunk.subarray(end));
    return lines;
  }

  /** @returns the last line, which has no newline; undefined if there is none */
  end(): Buffer | undefined {
    const last = this.heldBytes === 0 ? undefined : Buffer.concat(this.held);
    this.held = [];
    this.heldBytes = 0;
    return last;
  }

  private hold(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.held.push(bytes);
    this.heldBytes += bytes.length;
  }
}

/** The lines of `block`, each with its newline, as views. */
export function* eachLine(block: Buffer): Generator<Buffer, void> {
  let start = 0;
  while (start < block.length) {
    const newline = block.indexOf(NEWLINE, start);
    const end = newline < 0 ? block.length : newline + 1;
    yield block.subarray(start, end);
    start = end;
  }
}
