/** The fragment of the frame that is about to be committed: parts of a message, until they are copied or queued. */
import type { Borrowed, Part, Parts } from "../../wire/parts.js";
import { FileRange } from "../../wire/parts.js";
import type { Staging } from "./staging.js";

/**
 * Up to this size, in bytes, the beginning of a fragment is copied behind its frame. That costs less than an entry of
 * its own.
 */
export const JOINED_BYTES_MAX = 512;
/** Up to this size, in bytes, a whole fragment is copied. Then nobody has to wait until the socket has taken it. */
const COPIED_BYTES_MAX = 32 << 10;

export class PlacedFragment {
  /** Undefined: the frame has no fragment. */
  source: Parts | undefined;
  readonly parts: Part[] = [];
  private byteLength = 0;

  /** @throws Error as `Parts.takeTo`; then nothing is placed */
  place(source: Parts, byteLength: number): void {
    try {
      source.takeTo(this.parts, byteLength);
    } catch (error) {
      this.parts.length = 0;
      throw error;
    }
    this.byteLength += byteLength;
    this.source = source;
  }

  /** How many parts are copied behind the frame, which was staged last: all of a small one, or a short beginning. */
  partsToCopy(staging: Staging): number {
    const { parts, byteLength } = this;
    const [first] = parts;
    const isCopied =
      byteLength <= COPIED_BYTES_MAX &&
      staging.hasRoomToCopy(byteLength) &&
      !parts.some((part) => part instanceof FileRange);
    if (isCopied) return parts.length;
    const joins = !(first instanceof FileRange) && first.length <= JOINED_BYTES_MAX && staging.hasRoomFor(first.length);
    return joins ? 1 : 0;
  }

  copy(staging: Staging, count: number): void {
    for (let i = 0; i < count; i++) {
      const part = this.parts[i] as Uint8Array | Borrowed;
      staging.append(part instanceof Uint8Array ? part : part.bytes);
    }
  }

  clear(): void {
    this.parts.length = 0;
    this.byteLength = 0;
    this.source = undefined;
  }
}
