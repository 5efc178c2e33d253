/**
 * The bytes of a segment: where each shared word lies, which side writes it, and how the geometry is checked. The code
 * that moves bytes is in `ring.ts`, `arena.ts`, `releases.ts` and `doorbell.ts`.
 *
 * A connection has two directions. Each side creates one ring segment and one arena segment; the peer maps both
 * read-only. Every word below is written only by the segment's owner (LAYOUT-1).
 *
 *   ring segment                                          arena segment
 *   0      header: magic … (32 bytes, written once)       0     header (32 bytes, written once)
 *   4096   tail       position, frames I have written     4096  blocks, in units of 4096 bytes
 *   +128   head       position, peer's frames I consumed        …
 *   +256   sleep      sleep number · what is awaited            up to byteLength
 *   +384   released   count of release entries written
 *   +512   cpu        the CPU I last ran on, plus 1 (a hint: 0 = not known)
 *   8192   release entries: { unit u32, generation u32 }
 *   65536  ring data, `ringBytes` long; mapped twice in a row
 *
 * All integers are little-endian. Positions are unsigned 32-bit and wrap; index = position & (ringBytes − 1).
 */
import { Violation } from "./violation.js";

export const LAYOUT_VERSION = 1;

/**
 * Byte offset of the ring data: a multiple of every page size in use (4, 16 and 64 KiB), so there is only one layout.
 */
export const RING_DATA_OFFSET = 65536;
export const RELEASE_OFFSET = 8192;
/** Blocks of an arena are counted in units of this many bytes. Unit 0 holds the header. */
export const ARENA_UNIT_BYTES = 4096;
/** Frames start at multiples of this many bytes. */
export const FRAME_ALIGNMENT = 8;

/** Indices into an `Int32Array` over a ring segment. Each word has a pair of cache lines of its own. */
export const WORD = {
  tail: 4096 / 4,
  head: (4096 + 128) / 4,
  sleep: (4096 + 256) / 4,
  released: (4096 + 384) / 4,
  cpu: (4096 + 512) / 4,
  releaseEntries: RELEASE_OFFSET / 4,
} as const;

export const RELEASE_SLOTS_MAX = (RING_DATA_OFFSET - RELEASE_OFFSET) / 8;
const MAGIC = 0x48545349; // "ISTH"
const KIND = { ring: 1, arena: 2 } as const;
const RING_BYTES_MIN = 65536;
const RING_BYTES_MAX = 1 << 28;
const ARENA_BYTES_MAX = 2 ** 32 - ARENA_UNIT_BYTES;

export interface RingGeometry {
  /** Capacity of the ring data in bytes: a power of two from 64 KiB to 256 MiB. */
  readonly ringBytes: number;
  /** Capacity of the release ring in entries: a power of two up to 4096. The peer never has more of our blocks out. */
  readonly releaseSlots: number;
}

export interface ArenaGeometry {
  /** Size of the arena segment in bytes, header unit included: a multiple of 64 KiB. */
  readonly arenaBytes: number;
}

export function ringSegmentBytes(geometry: RingGeometry): number {
  return RING_DATA_OFFSET + geometry.ringBytes;
}

export function writeRingHeader(segment: ArrayBuffer, geometry: RingGeometry): void {
  const complaint = ringComplaint(geometry);
  if (complaint !== undefined) throw new RangeError(complaint);
  writeHeader(segment, KIND.ring, ringSegmentBytes(geometry), geometry.ringBytes, geometry.releaseSlots);
}

export function writeArenaHeader(segment: ArrayBuffer, geometry: ArenaGeometry): void {
  const complaint = arenaComplaint(geometry);
  if (complaint !== undefined) throw new RangeError(complaint);
  writeHeader(segment, KIND.arena, geometry.arenaBytes, 0, 0);
}

/**
 * Reads the geometry of a peer's ring segment, once, and checks it against the segment's real size.
 * @param header the first 32 bytes, already copied to private memory
 */
export function readRingHeader(header: Uint8Array, segmentBytes: number): RingGeometry {
  const words = checkedHeader(header, KIND.ring, segmentBytes);
  const geometry = { ringBytes: words[4], releaseSlots: words[5] };
  const complaint = ringComplaint(geometry);
  if (complaint !== undefined) throw new Violation("LAYOUT-3", complaint);
  if (ringSegmentBytes(geometry) !== segmentBytes) {
    throw new Violation("LAYOUT-3", `a ring of ${geometry.ringBytes} bytes does not make a segment of ${segmentBytes}`);
  }
  return geometry;
}

/** The same for an arena segment. */
export function readArenaHeader(header: Uint8Array, segmentBytes: number): ArenaGeometry {
  checkedHeader(header, KIND.arena, segmentBytes);
  const geometry = { arenaBytes: segmentBytes };
  const complaint = arenaComplaint(geometry);
  if (complaint !== undefined) throw new Violation("LAYOUT-3", complaint);
  return geometry;
}

export const HEADER_BYTES = 32;

/*
 * The header:  0 magic · 4 layout version · 8 kind · 12 segment bytes (low 32) · 16 ring bytes · 20 release slots · 24,
 * 28 zero
 */
function writeHeader(segment: ArrayBuffer, kind: number, bytes: number, ringBytes: number, releaseSlots: number): void {
  new Uint32Array(segment, 0, 8).set([MAGIC, LAYOUT_VERSION, kind, bytes, ringBytes, releaseSlots, 0, 0]);
}

function checkedHeader(header: Uint8Array, kind: number, segmentBytes: number): Uint32Array {
  const words = new Uint32Array(header.slice(0, HEADER_BYTES).buffer);
  if (words[0] !== MAGIC) throw new Violation("LAYOUT-2", "the segment does not start with Isthmus's magic number");
  if (words[1] !== LAYOUT_VERSION)
    throw new Violation("LAYOUT-2", `layout version ${words[1]} is not ${LAYOUT_VERSION}`);
  if (words[2] !== kind) throw new Violation("LAYOUT-2", `segment kind ${words[2]} where ${kind} was expected`);
  if (words[3] !== segmentBytes) {
    throw new Violation("LAYOUT-3", `the header says ${words[3]} bytes, the descriptor has ${segmentBytes}`);
  }
  return words;
}

/** What is wrong with the sizes; undefined if nothing is. */
export function ringComplaint({ ringBytes, releaseSlots }: RingGeometry): string | undefined {
  if (!isPowerOfTwo(ringBytes) || ringBytes < RING_BYTES_MIN || ringBytes > RING_BYTES_MAX) {
    return `ring bytes must be a power of two from ${RING_BYTES_MIN} to ${RING_BYTES_MAX}, not ${ringBytes}`;
  }
  if (!isPowerOfTwo(releaseSlots) || releaseSlots > RELEASE_SLOTS_MAX) {
    return `release slots must be a power of two up to ${RELEASE_SLOTS_MAX}, not ${releaseSlots}`;
  }
  return undefined;
}

/** What is wrong with the size; undefined if nothing is. */
export function arenaComplaint({ arenaBytes }: ArenaGeometry): string | undefined {
  const whole = Number.isInteger(arenaBytes) && arenaBytes % RING_DATA_OFFSET === 0;
  if (!whole || arenaBytes < 2 * RING_DATA_OFFSET || arenaBytes > ARENA_BYTES_MAX) {
    return `arena bytes must be a multiple of ${RING_DATA_OFFSET} from ${2 * RING_DATA_OFFSET} to ${ARENA_BYTES_MAX}, not ${arenaBytes}`;
  }
  return undefined;
}

function isPowerOfTwo(n: number): boolean {
  return Number.isInteger(n) && n > 0 && n <= 2 ** 31 && (n & (n - 1)) === 0;
}
