/** Zeros in place of announced bytes that can no longer be had (SOCKET-9, SENDFILE-2). */

const ZEROS = new Uint8Array(64 << 10);

/** `byteLength` zeros, as views of one shared memory. */
export function zeroChunks(byteLength: number): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let left = byteLength; left > 0; left -= ZEROS.length) chunks.push(ZEROS.subarray(0, left));
  return chunks;
}
