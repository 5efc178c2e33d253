/**
 * What a full socket is given to write later: the bytes that Node may keep, and copies of borrowed ones. When they are
 * written, there is room for the others. Holds the memory of the copies until then; large ones share a pool.
 */
import type { Batch, QueuedFile } from "./queued.js";
import { borrowedBytes, QueuedBytes, QueuedHead, restOfFragment } from "./queued.js";

/** When the socket is full, this many borrowed bytes are copied, or the rest of a fragment that completes a message. */
const BOUNCE_BYTES = 64;
/** Where nothing can be written at once, all borrowed bytes are copied, in portions of this size. */
const PORTION_BYTES = 256 << 10;
/** Number of unused portions that a thread keeps. */
const PORTIONS_MAX = 16;

/** Chunks for the socket, from the first entry of a batch on. They complete the entries before `end`. */
export interface Given {
  readonly chunks: readonly Uint8Array[];
  readonly byteLength: number;
  readonly end: number;
}

const portions: Buffer[] = [];

export class Bounce {
  private small: Buffer | undefined;
  private portion: Buffer | undefined;

  /**
   * @param end the batch has memory up to here
   * @param atOnce whether borrowed bytes can be written without copies when there is room
   * @param onCopied called for entries of which bytes were copied
   */
  take(
    { entries, next }: Batch,
    end: number,
    atOnce: boolean,
    onCopied: (entry: QueuedBytes, byteLength: number) => void,
  ): Given {
    const most = Math.max(atOnce ? BOUNCE_BYTES : PORTION_BYTES, bytesToEnd(entries, next));
    const copies = this.memoryFor(Math.min(borrowedBytes(entries.slice(next, end)), most));
    const chunks: Uint8Array[] = [];
    let byteLength = 0;
    let copiedBytes = 0;
    let given = next;
    for (; given < end; given++) {
      const entry = entries[given] as Exclude<Batch["entries"][number], QueuedFile>;
      let chunk = entry instanceof Uint8Array ? entry : entry.bytes;
      let isWhole = true;
      if (entry instanceof QueuedHead) {
        // SOCKET-9: until it has begun, it can be taken back.
        if (given > next && borrowedBytes(restOfFragment(entries, given)) > copies.length - copiedBytes) break;
      } else if (entry instanceof QueuedBytes && entry.borrowed) {
        const length = Math.min(chunk.length, copies.length - copiedBytes);
        if (length === 0) break;
        isWhole = length === chunk.length;
        copies.set(isWhole ? chunk : chunk.subarray(0, length), copiedBytes);
        chunk = copies.subarray(copiedBytes, (copiedBytes += length));
        onCopied(entry, length);
      }
      chunks.push(chunk);
      byteLength += chunk.length;
      if (!isWhole) break;
    }
    return { chunks, byteLength, end: given };
  }

  private memoryFor(byteLength: number): Uint8Array {
    if (byteLength <= BOUNCE_BYTES)
      return (this.small ??= Buffer.allocUnsafeSlow(BOUNCE_BYTES)).subarray(0, byteLength);
    if (byteLength > PORTION_BYTES) return Buffer.allocUnsafeSlow(byteLength);
    this.portion ??= portions.pop() ?? Buffer.allocUnsafeSlow(PORTION_BYTES);
    return this.portion.subarray(0, byteLength);
  }

  /** The socket has taken all copies. */
  taken(): void {
    if (this.portion === undefined) return;
    if (portions.length < PORTIONS_MAX) portions.push(this.portion);
    this.portion = undefined;
  }
}

/**
 * How many borrowed bytes leave now at the latest, because the fragment that is next completes its message and begins
 * now, if it has not begun (SOCKET-9).
 */
function bytesToEnd(entries: Batch["entries"], next: number): number {
  const first = entries[next];
  if (first instanceof Uint8Array) return 0;
  const head = first instanceof QueuedHead ? first : first.head;
  return head.isFinal ? borrowedBytes(restOfFragment(entries, next)) : 0;
}
