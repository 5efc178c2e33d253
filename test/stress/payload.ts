/**
 * Payloads whose every byte is accounted for. Size and content follow from seed, sequence number and direction, so the
 * receiver knows what to expect; the checksum covers every byte, the length and the sequence number.
 */
import { hash32 } from "./settings.js";

const POOL_BYTES = 8 << 20;
const SMALL_BYTES_MAX = 64 << 10;
const HUGE_BYTES_MAX = 4 << 20;
/** One in so many is larger than `SMALL_BYTES_MAX`. */
const HUGE_ONE_IN = 10_000;

export const DIRECTION = { request: 1, reply: 2 } as const;
export type Direction = (typeof DIRECTION)[keyof typeof DIRECTION];

export class Payloads {
  private readonly seed: number;
  private readonly pool: Uint8Array;
  private readonly hugeOneIn: number;

  constructor(seed: number, hugeOneIn: number = HUGE_ONE_IN) {
    this.seed = seed;
    this.hugeOneIn = hugeOneIn;
    const words = new Uint32Array(POOL_BYTES / 4);
    for (let i = 0; i < words.length; i++) words[i] = hash32(seed, i, 0);
    this.pool = new Uint8Array(words.buffer);
  }

  /** Log-uniform from 0 to 64 KiB; one in ten thousand from there to 4 MiB. */
  sizeOf(sequence: number, direction: Direction): number {
    const fraction = hash32(this.seed, sequence, direction) / 0x1_0000_0000;
    if (hash32(this.seed, sequence, direction + 10) % this.hugeOneIn === 0) {
      return Math.floor(SMALL_BYTES_MAX * (HUGE_BYTES_MAX / SMALL_BYTES_MAX) ** fraction);
    }
    return Math.floor((SMALL_BYTES_MAX + 1) ** fraction - 1);
  }

  /** A view of memory that is never changed. */
  make(sequence: number, direction: Direction): Uint8Array {
    const size = this.sizeOf(sequence, direction);
    const offset = hash32(this.seed, sequence, direction + 20) % (POOL_BYTES - size);
    return this.pool.subarray(offset, offset + size);
  }

  checksumOf(data: Uint8Array, sequence: number, direction: Direction): number {
    return checksum(data, hash32(this.seed, sequence, direction + 30));
  }
}

/** Four lanes of multiply and rotate over 32-bit words; the tail byte by byte. Any single changed byte changes it. */
export function checksum(data: Uint8Array, seed: number): number {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const whole = data.length & ~15;
  let a = seed | 0;
  let b = seed ^ 0x9e3779b1;
  let c = seed ^ 0x85ebca77;
  let d = seed ^ 0xc2b2ae3d;
  for (let at = 0; at < whole; at += 16) {
    a = Math.imul(a ^ view.getInt32(at, true), 0x9e3779b1);
    b = Math.imul(b ^ view.getInt32(at + 4, true), 0x9e3779b1);
    c = Math.imul(c ^ view.getInt32(at + 8, true), 0x9e3779b1);
    d = Math.imul(d ^ view.getInt32(at + 12, true), 0x9e3779b1);
    a = (a << 13) | (a >>> 19);
    b = (b << 13) | (b >>> 19);
    c = (c << 13) | (c >>> 19);
    d = (d << 13) | (d >>> 19);
  }
  for (let at = whole; at < data.length; at++) a = Math.imul(a ^ data[at], 0x01000193);
  let h = data.length;
  for (const lane of [a, b, c, d]) {
    h = Math.imul(h ^ lane, 0x85ebca6b);
    h ^= h >>> 15;
  }
  return h >>> 0;
}
