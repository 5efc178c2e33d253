/** Bytes that differ everywhere, and a checksum that notices when they are not where they belong. */

const TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc32(bytes: Uint8Array): number {
  let value = -1;
  for (let i = 0; i < bytes.length; i++) value = TABLE[(value ^ bytes[i]) & 0xff] ^ (value >>> 8);
  return (value ^ -1) >>> 0;
}

/** Pseudo-random bytes, the same for the same seed. */
export function patternBytes(byteLength: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(byteLength);
  const words = new Uint32Array(bytes.buffer, 0, byteLength >> 2);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = state;
  }
  for (let i = words.length * 4; i < byteLength; i++) bytes[i] = state + i;
  return bytes;
}
