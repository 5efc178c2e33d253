/**
 * Creates this side's two segments of a connection, and maps the peer's two. A segment has no name and is identified by
 * its descriptor, so nothing is left behind when a process dies.
 *
 * SEGMENT-1  A ring segment is sealed SHRINK|GROW|FUTURE_WRITE|SEAL: its owner has the only writable mapping, and no
 *            process can make another. An arena is sealed SHRINK|GROW|SEAL, and FUTURE_WRITE too if its owner isolates
 *            itself from the peer. Neither can be truncated under a reader.
 * SEGMENT-2  Before a peer's descriptor is mapped, the kernel is asked for its seals and its real size. The header is
 *            copied once, checked, and never read again.
 * SEGMENT-3  No view of a ring or of a read-only mapping is given to user code, where a stray store would raise
 *            SIGSEGV. The peer's ring is mapped read-only, and so is its arena unless blocks of it are leased to user
 *            code. The exception is a user's codec, which gets the part of our own ring that it writes to.
 * SEGMENT-6  If a side isolates itself, its user code sees no byte of shared memory that the peer can change: it copies
 *            what it receives, and has sealed its arena before the peer got it. The peer sees the seal, maps that arena
 *            read-only and copies too.
 */
import type { Addon, SegmentInfo } from "../../os/addon.js";
import { SEALS } from "../../os/addon.js";
import { memoryLimitBytes } from "../../os/cgroup.js";
import type { ArenaPages } from "./arena.js";
import type { CommitShare, ProcessBudget } from "./budget.js";
import { createCommitBudget } from "./budget.js";
import type { ArenaGeometry, RingGeometry } from "./layout.js";
import {
  ARENA_UNIT_BYTES,
  HEADER_BYTES,
  RING_DATA_OFFSET,
  readArenaHeader,
  readRingHeader,
  ringSegmentBytes,
  writeArenaHeader,
  writeRingHeader,
} from "./layout.js";
import { useExternalMemoryMeter } from "../v8/external-memory.js";
import { assertOwn, Violation } from "./violation.js";

/** A multiple of every page size. */
const MAPPED_BYTES_MIN = 2 << 20;
const ARENA_SEALS = SEALS.SHRINK | SEALS.GROW | SEALS.SEAL;
/** Of a ring, and of the arena of a side that isolates itself. */
const ISOLATED_SEALS = ARENA_SEALS | SEALS.FUTURE_WRITE;

/** All memory of one connection, as the carrier uses it. */
export interface ConnectionMemory {
  readonly ownRing: ArrayBuffer;
  readonly ownArena: ArenaView;
  readonly ownGeometry: RingGeometry;
  readonly ownPages: ArenaPages;
  readonly peerRing: ArrayBuffer;
  readonly peerArena: ArenaView;
  readonly peerGeometry: RingGeometry;
  readonly budget: CommitShare;
  /** Whether blocks of the peer's arena may be shown to user code. */
  readonly leasable: boolean;
  /** Whether this side isolates itself from the peer (SEGMENT-6). */
  readonly isIsolated: boolean;
  /** Whether the peer isolates itself from this side. */
  readonly isPeerIsolated: boolean;
  /** Detaches every view and unmaps. The kernel frees the pages when the peer has unmapped them too. */
  close(): void;
}

/** The mapped part of an arena, which grows with use. */
export interface ArenaView {
  /** The size of the whole arena. */
  readonly byteLength: number;
  /**
   * Returns the arena's bytes, at least up to `end`. They are valid until the next call.
   * @throws SystemError if they cannot be mapped
   */
  upTo(end: number): Uint8Array;
  /**
   * Creates an ArrayBuffer of its own over some bytes of the arena. The memory stays mapped as long as that buffer
   * lives; afterwards the listener set by `listenToFreedViews` is called with `token`.
   * @throws SystemError if the bytes cannot be mapped
   */
  viewOf(offset: number, byteLength: number, token: number): ArrayBuffer;
  /** Detaches a buffer made by `viewOf`: all views on it become empty. */
  detach(buffer: ArrayBuffer): void;
  /** Sets the listener for freed views. A thread has one listener for all its arenas, so only the first call counts. */
  listenToFreedViews(onFreed: (token: number) => void): void;
}

/** How an arena is mapped. "to be sealed": writable, before it gets a seal against that. */
type ArenaAccess = "read-only" | "writable" | "to be sealed";

/**
 * SEGMENT-4  Only the part of an arena that has been used is mapped, in doubling steps. V8 counts a mapping's whole
 *            length as external memory: mapping 64 MiB twice per connection cost 20 to 45 ms of garbage collection. An
 *            arena that its owner will seal is mapped as a whole, because the seal refuses further writable mappings to
 *            its owner too, and shown to V8 in the same steps.
 */
class ArenaMapping implements ArenaView {
  readonly byteLength: number;
  private readonly addon: Addon;
  private readonly descriptor: number;
  private readonly access: ArenaAccess;
  buffer: ArrayBuffer;
  private bytes: Uint8Array;
  private mappedBytes: number;

  constructor(addon: Addon, descriptor: number, byteLength: number, access: ArenaAccess) {
    this.addon = addon;
    this.descriptor = descriptor;
    this.byteLength = byteLength;
    this.access = access;
    this.mappedBytes = Math.min(byteLength, MAPPED_BYTES_MIN);
    this.buffer =
      access === "to be sealed"
        ? addon.mapInAdvance(descriptor, byteLength, this.mappedBytes)
        : addon.mapSegment(descriptor, this.mappedBytes, 0, access === "writable");
    this.bytes = new Uint8Array(this.buffer);
  }

  upTo(end: number): Uint8Array {
    if (end > this.mappedBytes) {
      let byteLength = this.mappedBytes;
      while (byteLength < end) byteLength *= 2;
      byteLength = Math.min(byteLength, this.byteLength);
      assertOwn(end <= byteLength, "SEGMENT-4: a byte past the end of an arena was requested");
      const buffer =
        this.access === "to be sealed"
          ? this.addon.showMore(this.buffer, byteLength)
          : this.addon.mapSegment(this.descriptor, byteLength, 0, this.access === "writable");
      this.addon.detachMapping(this.buffer);
      this.buffer = buffer;
      this.bytes = new Uint8Array(buffer);
      this.mappedBytes = byteLength;
    }
    return this.bytes;
  }

  viewOf(offset: number, byteLength: number, token: number): ArrayBuffer {
    this.upTo(offset + byteLength);
    return this.addon.viewMapping(this.buffer, offset, byteLength, token);
  }

  detach(buffer: ArrayBuffer): void {
    this.addon.detachMapping(buffer);
  }

  listenToFreedViews(onFreed: (token: number) => void): void {
    listenToFreedViews(this.addon, onFreed);
  }

  close(): void {
    this.addon.detachMapping(this.buffer);
  }
}

const listening = new WeakSet<Addon>();

/** Has `onFreed` called with the token of every view whose memory is gone. Only the first call per thread counts. */
export function listenToFreedViews(addon: Addon, onFreed: (token: number) => void): void {
  if (listening.has(addon)) return;
  listening.add(addon);
  addon.onViewFreed(onFreed);
  useExternalMemoryMeter((change) => addon.adjustExternalMemory(change));
}

/**
 * This side's segments before the peer's are known. The caller sends both descriptors to the peer, the ring's first.
 */
export interface OwnMemory {
  readonly ringDescriptor: number;
  readonly arenaDescriptor: number;
  readonly ring: ArrayBuffer;
  readonly arena: ArenaView;
  readonly geometry: RingGeometry & ArenaGeometry;
  /** Whether the arena is sealed against the peer's writing. */
  readonly isIsolated: boolean;
  /**
   * Call when the peer has them. Closes the ring's descriptor; the arena's is still needed to commit and return pages.
   */
  descriptorsSent(): void;
  close(): void;
}

let sharedBudget: ProcessBudget | undefined;

/** What this process may commit, for all connections and regions. */
export function commitBudget(): ProcessBudget {
  return (sharedBudget ??= createCommitBudget(memoryLimitBytes()));
}

/**
 * @param isIsolated whether this side isolates itself from the peer (SEGMENT-6)
 * @throws SystemError if the kernel refuses memory, descriptors or mappings; then nothing is left open
 */
export function createOwnMemory(addon: Addon, geometry: RingGeometry & ArenaGeometry, isIsolated: boolean): OwnMemory {
  /** The ring's, then the arena's. */
  const descriptors: number[] = [];
  const mappings: ArrayBuffer[] = [];
  let arena: ArenaMapping | undefined;
  const close = () => {
    for (const mapping of mappings.splice(0)) addon.detachMapping(mapping);
    arena?.close();
    for (const descriptor of descriptors.splice(0)) addon.closeDescriptor(descriptor);
  };
  const descriptorsSent = () => {
    for (const descriptor of descriptors.splice(0, 1)) addon.closeDescriptor(descriptor);
  };
  try {
    const ringBytes = ringSegmentBytes(geometry);
    const ringDescriptor = addon.createSegment("isthmus-ring", ringBytes);
    descriptors.push(ringDescriptor);
    addon.commitPages(ringDescriptor, 0, ringBytes);
    const ring = addon.mapSegment(ringDescriptor, ringBytes, geometry.ringBytes, true);
    mappings.push(ring);
    writeRingHeader(ring, geometry);
    addon.sealSegment(ringDescriptor, ISOLATED_SEALS);

    const arenaDescriptor = addon.createSegment("isthmus-arena", geometry.arenaBytes);
    descriptors.push(arenaDescriptor);
    addon.commitPages(arenaDescriptor, 0, ARENA_UNIT_BYTES);
    arena = new ArenaMapping(addon, arenaDescriptor, geometry.arenaBytes, isIsolated ? "to be sealed" : "writable");
    writeArenaHeader(arena.buffer, geometry);
    addon.sealSegment(arenaDescriptor, isIsolated ? ISOLATED_SEALS : ARENA_SEALS);
    return { ringDescriptor, arenaDescriptor, ring, arena, geometry, isIsolated, descriptorsSent, close };
  } catch (error) {
    close();
    throw error;
  }
}

/**
 * Maps the peer's segments. From now on `own` and the peer's descriptors belong to the result. If this throws, they are
 * closed. Unless one of the sides isolates itself, user code will access blocks of the peer's arena, which is then mapped
 * writable (SEGMENT-3).
 * @throws Violation if the segments break the protocol; SystemError if they cannot be mapped
 */
export function joinMemory(addon: Addon, own: OwnMemory, peerDescriptors: readonly number[]): ConnectionMemory {
  const open = [...peerDescriptors];
  const budget = commitBudget().share();
  let peerRing: ArrayBuffer | undefined;
  let peerArena: ArenaMapping | undefined;
  const close = () => {
    budget.close();
    if (peerRing !== undefined) addon.detachMapping(peerRing);
    peerArena?.close();
    for (const descriptor of open.splice(0)) addon.closeDescriptor(descriptor);
    own.close();
  };
  try {
    if (peerDescriptors.length !== 2) {
      throw new Violation("SEGMENT-5", `${peerDescriptors.length} descriptors came with the handshake instead of 2`);
    }
    const [ringDescriptor, arenaDescriptor] = peerDescriptors;
    const { byteLength: ringSize } = checkSegment(addon, ringDescriptor, ISOLATED_SEALS, "ring");
    const { byteLength: arenaSize, seals } = checkSegment(addon, arenaDescriptor, ARENA_SEALS, "arena");
    const isPeerIsolated = (seals & (SEALS.FUTURE_WRITE | SEALS.WRITE)) !== 0;
    const leasable = !own.isIsolated && !isPeerIsolated;
    const peerGeometry = readRingHeader(peekHeader(addon, ringDescriptor), ringSize);
    peerRing = addon.mapSegment(ringDescriptor, ringSize, peerGeometry.ringBytes, false);
    readArenaHeader(peekHeader(addon, arenaDescriptor), arenaSize);
    peerArena = new ArenaMapping(addon, arenaDescriptor, arenaSize, leasable ? "writable" : "read-only");
    // The arena's descriptor is still needed to map more of the arena.
    for (const descriptor of open.splice(0, 1)) addon.closeDescriptor(descriptor);
    return {
      ownRing: own.ring,
      ownArena: own.arena,
      ownGeometry: own.geometry,
      ownPages: {
        byteLength: own.geometry.arenaBytes,
        commit: (offset, byteLength) => addon.commitPages(own.arenaDescriptor, offset, byteLength),
        // The seal refuses this to its owner too.
        decommit: own.isIsolated
          ? undefined
          : (offset, byteLength) => addon.returnPages(own.arenaDescriptor, offset, byteLength),
      },
      peerRing,
      peerArena,
      peerGeometry,
      budget,
      leasable,
      isIsolated: own.isIsolated,
      isPeerIsolated,
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

function checkSegment(addon: Addon, descriptor: number, seals: number, what: string): SegmentInfo {
  const found = addon.inspectSegment(descriptor);
  // Compared with a mask, because newer kernels add NOEXEC.
  if ((found.seals & seals) !== seals) {
    throw new Violation("SEGMENT-1", `the peer's ${what} has seals ${found.seals}, not all of ${seals}`);
  }
  // Checked before anything is mapped, because reading past the end of a segment raises SIGBUS.
  if (found.byteLength < 2 * RING_DATA_OFFSET || found.byteLength % RING_DATA_OFFSET !== 0) {
    throw new Violation(
      "LAYOUT-3",
      `the peer's ${what} has ${found.byteLength} bytes, which is not a valid size of a segment`,
    );
  }
  return found;
}

/** Copies the header of a segment to private memory. Its geometry tells how to map the segment. */
function peekHeader(addon: Addon, descriptor: number): Uint8Array {
  const page = addon.mapSegment(descriptor, addon.pageSize(), 0, false);
  try {
    return new Uint8Array(page, 0, HEADER_BYTES).slice();
  } finally {
    addon.detachMapping(page);
  }
}
