/**
 * What a full socket is given to write later: the bytes that Node may keep, and copies of the first borrowed ones. When
 * they are written, there is room for the others. Owns the memory of the copies, which is in use until then.
 */
import type { Batch } from "./queued.js";
import { borrowedBytes, QueuedBytes, QueuedHead, restOfFragment } from "./queued.js";
import type { QueuedFile } from "./queued.js";

/** When the socket is full, this many borrowed bytes are copied. */
const BOUNCE_BYTES = 64;
/** Where nothing can be written at once, all borrowed bytes are copied, in portions of this size. */
const PORTION_BYTES = 256 << 10;

/** Chunks for the socket, from the first entry of a batch on. They complete the entries before `end`. */
export interface Given {
  readonly chunks: readonly Uint8Array[];
  readonly byteLength: number;
  readonly end: number;
}

export class Bounce {
  private memory: Buffer | undefined;

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
    const copies = this.copies(borrowedBytes(entries.slice(next, end)), atOnce);
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

  private copies(borrowed: number, atOnce: boolean): Uint8Array {
    const most = atOnce ? BOUNCE_BYTES : PORTION_BYTES;
    const byteLength = Math.min(borrowed, most);
    if (this.memory === undefined || this.memory.length < byteLength) this.memory = Buffer.allocUnsafeSlow(most);
    return this.memory.subarray(0, byteLength);
  }
}
