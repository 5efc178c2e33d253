/**
 * The payload memory of one connection, both directions: blocks of this side's arena, and blocks of the peer's arena
 * that are leased here. This file counts who holds which block. The carrier and send/ decide what is sent when.
 *
 * BLOCKS-1  A block is lent to the peer before the frame that names it is published. A block that comes back in a frame
 *           is ours again only if the peer had it.
 * BLOCKS-2  A receiver that leases half of the peer's arena, or half as many blocks as may be out, copies new payloads
 *           and releases their blocks at once. So the sender can always go on. The same limits hold for leases of its
 *           own blocks that came back.
 * BLOCKS-3  The number of blocks that are out, plus the further times that one of them was lent, never exceeds the
 *           number of slots that the peer has to release them.
 */
import type { BlockUser } from "../../memory/payload/block-views.js";
import { BlockViews } from "../../memory/payload/block-views.js";
import type { Lease, LeaseHome } from "../../memory/payload/lease.js";
import type { LoanHome } from "../../memory/payload/loan.js";
import { Loan } from "../../memory/payload/loan.js";
import { Arena } from "../../memory/shm/arena.js";
import { BitSet } from "../../memory/shm/bit-set.js";
import { ARENA_UNIT_BYTES, RING_DATA_OFFSET } from "../../memory/shm/layout.js";
import { ReleaseReader, ReleaseWriter } from "../../memory/shm/releases.js";
import type { ConnectionMemory } from "../../memory/shm/segment.js";
import { Violation } from "../../memory/shm/violation.js";
import type { WordAccess } from "../../memory/shm/words.js";
import type { SpanEntry } from "../../wire/frame.js";
import { SPAN } from "../../wire/frame.js";
import type { Parts } from "../../wire/parts.js";
import { FRAGMENT_INTO_RING, FRAGMENT_WAITS } from "../carrier.js";
import type { ReadAgain, RegionLine, SentLease, SpanMemory } from "../span-memory.js";
import { BlockLeases } from "./block-leases.js";
import type { LeasedBlocks } from "./sent-leases.js";
import { placeOwnLease, placePeerLease } from "./sent-leases.js";

/** What the blocks ask of their carrier. */
export interface BlocksPort {
  /** There may be room now for sends that waited. */
  onRoom(): void;
  /** Released blocks were published. */
  onReleased(): void;
  /** Releases a block of the peer in the order of the frames, because a frame on its way names it. */
  sendRelease(unit: number, generation: number): void;
}

/**
 * Bytes of fragments that may be in blocks at once: enough for one side to copy in while the other copies out, and
 * little enough that a small message never waits long behind them.
 */
const IN_FLIGHT_BYTES_MAX = 2 << 20;

const CLOSED_PORT: BlocksPort = { onRoom: () => undefined, onReleased: () => undefined, sendRelease: () => undefined };

export class Blocks implements SpanMemory, LeasedBlocks {
  regions: RegionLine | undefined;
  /** Set by the driver of the carrier. */
  isBlocking = false;
  readonly isIsolated: boolean;
  readonly arena: Arena;
  readonly counts = { spansLeased: 0, spansCopiedIn: 0, spansCopiedOut: 0, spansSentInPlace: 0 };
  /** Blocks that the peer has released so far. */
  releases = 0;
  readonly ownViews: BlockViews;
  readonly ownHome: LoanHome & LeaseHome;
  readonly peerHome: LeaseHome;
  /** Leases of this side's blocks that came back in messages. */
  readonly ownLeases: BlockLeases;
  readonly peerLeases: BlockLeases;
  /** Blocks that the peer may have out at once. */
  readonly slotsOfPeer: number;
  private readonly memory: ConnectionMemory;
  private port: BlocksPort;
  private readonly releasesIn: ReleaseReader;
  private readonly releasesOut: ReleaseWriter;
  private readonly releaseSlots: number;
  private readonly peerViews: BlockViews;
  private readonly onRelease = (unit: number, generation: number) => this.released(unit, generation);
  /** Units of the fragments on their way. */
  private readonly fragments = new BitSet();
  /** Bytes of the blocks in `fragments`. */
  private fragmentBytes = 0;
  private closed = false;
  /** Leased blocks of this side that are about to be lent to the peer once more. */
  private promisedLends = 0;
  private loans = 0;
  private loanedBytes = 0;

  constructor(memory: ConnectionMemory, port: BlocksPort, words: WordAccess) {
    const { ownGeometry, peerGeometry, ownRing, peerRing } = memory;
    this.memory = memory;
    this.isIsolated = memory.isIsolated;
    this.port = port;
    const own = new Int32Array(ownRing, 0, RING_DATA_OFFSET / 4);
    const peer = new Int32Array(peerRing, 0, RING_DATA_OFFSET / 4);
    this.arena = new Arena(memory.ownPages, memory.budget, () => this.port.onRoom());
    this.releasesOut = new ReleaseWriter(own, ownGeometry.releaseSlots, words);
    this.releasesIn = new ReleaseReader(peer, peerGeometry.releaseSlots, words);
    this.releaseSlots = peerGeometry.releaseSlots;
    this.slotsOfPeer = ownGeometry.releaseSlots;
    this.ownLeases = new BlockLeases(this.releaseSlots, memory.ownArena.byteLength);
    this.peerLeases = new BlockLeases(this.slotsOfPeer, memory.peerArena.byteLength);
    this.ownViews = new BlockViews(memory.ownArena, ARENA_UNIT_BYTES);
    this.peerViews = new BlockViews(memory.peerArena, ARENA_UNIT_BYTES);
    this.ownHome = {
      views: this.ownViews,
      dropBlock: (unit) => this.freeLoan(unit),
      release: (lease) => {
        this.ownLeases.ended(lease);
        this.freeOwn(lease.unit);
      },
    };
    this.peerHome = { views: this.peerViews, release: (lease, wasReturned) => this.release(lease, wasReturned) };
  }

  // Blocks of this side's arena.

  allocate(byteLength: number): number {
    if (this.closed) return -1;
    if (this.arena.outstanding > 0) this.collectReleases();
    if (!this.hasSlot) return -1;
    let unit = this.arena.allocate(byteLength);
    if (unit < 0 && this.arena.grow()) unit = this.arena.allocate(byteLength);
    if (unit < 0) return unit;
    try {
      this.memory.ownArena.upTo(unit * ARENA_UNIT_BYTES + byteLength);
      return unit;
    } catch (error) {
      // No address space or mapping is left, which has the same effect as no memory.
      this.arena.free(unit, error);
      return -1;
    }
  }

  /** BLOCKS-3 (RELEASE-1) */
  private get hasSlot(): boolean {
    return this.arena.releasesDue + this.promisedLends < this.releaseSlots;
  }

  /** Size of the largest block that there can be. */
  get blockBytesMax(): number {
    return this.arena.byteLength - ARENA_UNIT_BYTES;
  }

  private get mayGrow(): boolean {
    return this.hasSlot && this.arena.mayGrow;
  }

  mayGrowFor(byteLength: number): boolean {
    return this.mayGrow && byteLength < this.arena.byteLength / 2;
  }

  /**
   * Copies the next `byteLength` bytes of a large message to a block, which the peer holds from then on. Returns the
   * block's unit, or what `Carrier.placeFragment` returns if nothing was taken. It returns `FRAGMENT_INTO_RING` if
   * waiting for a block may be in vain: all memory is in loans and leases, which may never end, or there is no memory.
   * @throws Error if the bytes are gone
   */
  placeFragment(source: Parts, byteLength: number): number {
    if (this.fragmentBytes + byteLength > IN_FLIGHT_BYTES_MAX) {
      this.collectReleases();
      return FRAGMENT_WAITS;
    }
    const unit = this.allocate(byteLength);
    if (unit < 0) {
      const mayHelp = this.fragments.size > 0 || this.mayGrow;
      return mayHelp ? FRAGMENT_WAITS : FRAGMENT_INTO_RING;
    }
    try {
      source.copyTo(this.bytesOf(unit, byteLength), 0, byteLength);
    } catch (error) {
      this.arena.free(unit);
      throw error;
    }
    this.arena.handOver(unit);
    this.fragments.add(unit);
    this.fragmentBytes += this.arena.bytesOf(unit);
    return unit;
  }

  bytesOf(unit: number, byteLength: number): Uint8Array {
    const from = unit * ARENA_UNIT_BYTES;
    return this.memory.ownArena.upTo(from + byteLength).subarray(from, from + byteLength);
  }

  openForReading(unit: number, byteLength: number): { readonly bytes: Uint8Array; readonly close: () => void } {
    const user: BlockUser = { view: undefined, onCollected: () => undefined };
    const buffer = this.ownViews.open(unit, 0, byteLength, user);
    return { bytes: new Uint8Array(buffer), close: () => void this.ownViews.detach(buffer, user) };
  }

  generationOf(unit: number): number {
    return this.arena.generationOf(unit);
  }

  handOver(unit: number): void {
    this.arena.handOver(unit);
  }

  freeOwn(unit: number): void {
    if (this.closed) return;
    this.arena.free(unit);
    this.port.onRoom();
  }

  // Loans.

  /** A loan of `byteLength` bytes, or undefined if there is no room now. */
  loan(byteLength: number): Uint8Array | undefined {
    const unit = this.allocate(byteLength);
    if (unit < 0) return undefined;
    this.loans++;
    this.loanedBytes += this.arena.bytesOf(unit);
    return Loan.ofBlock(this.ownHome, unit, byteLength);
  }

  loanSent(unit: number): void {
    this.loanEnded(unit);
    this.counts.spansSentInPlace++;
  }

  private loanEnded(unit: number): void {
    this.loans--;
    this.loanedBytes -= this.arena.bytesOf(unit);
  }

  private freeLoan(unit: number): void {
    if (this.closed) return;
    this.loanEnded(unit);
    this.freeOwn(unit);
  }

  isOwnLoan(loan: Loan): boolean {
    return loan.home === this.ownHome && !this.closed;
  }

  // Leases that are sent.

  /** Whose block a lease of this connection is; undefined: it is no lease of this connection. */
  private ownerOf(lease: Lease): "own" | "peer" | undefined {
    if (this.closed) return undefined;
    if (lease.home === this.peerHome) return "peer";
    return lease.home === this.ownHome ? "own" : undefined;
  }

  /** The result is valid until the next `allocate`. */
  reader(lease: Lease): ReadAgain | undefined {
    const owner = this.ownerOf(lease);
    if (owner === undefined) return undefined;
    const arena = owner === "own" ? this.memory.ownArena : this.memory.peerArena;
    const start = lease.unit * ARENA_UNIT_BYTES + lease.offset;
    return (byteOffset, byteLength) =>
      arena.upTo(start + byteOffset + byteLength).subarray(start + byteOffset, start + byteOffset + byteLength);
  }

  placeLease(lease: Lease, bytes: Uint8Array, why: string): SentLease | undefined {
    const isOwn = this.ownerOf(lease) === "own";
    if (isOwn && !this.promiseLend()) return undefined;
    this.counts.spansSentInPlace++;
    return isOwn ? placeOwnLease(this, lease, bytes, why) : placePeerLease(this, lease, bytes, why);
  }

  takeBack(lease: Lease, buffer: ArrayBuffer, why: string): boolean {
    if (!lease.endsWhenSent || lease.retained || this.ownerOf(lease) !== "peer" || !lease.endByReturning(buffer, why))
      return false;
    this.peerLeases.ended(lease);
    this.counts.spansSentInPlace++;
    return true;
  }

  /**
   * Reserves a slot to lend a block of ours to the peer once more. If it returns true, one of `lendPromised`,
   * `handOverPromised` and `breakPromise` has to follow.
   */
  private promiseLend(): boolean {
    if (!this.hasSlot) this.collectReleases();
    if (!this.hasSlot) return false;
    this.promisedLends++;
    return true;
  }

  lendPromised(unit: number): void {
    this.promisedLends--;
    this.arena.lend(unit);
  }

  handOverPromised(unit: number): void {
    this.promisedLends--;
    this.arena.handOver(unit);
  }

  breakPromise(): void {
    this.promisedLends--;
  }

  // Releases of blocks of ours.

  collectReleases(): void {
    if (this.releasesIn.hasReleases()) this.releasesIn.collect(this.onRelease);
  }

  hasReleases(): boolean {
    return this.releasesIn.hasReleases();
  }

  /** The peer released a block of ours. @throws Violation */
  released(unit: number, generation: number): void {
    // Read before the block may be joined with its neighbours. If it is no block, `release` finds out.
    const blockBytes = this.arena.bytesOf(unit);
    this.arena.release(unit, generation);
    this.releases++;
    if (this.fragments.delete(unit)) this.fragmentBytes -= blockBytes;
  }

  /** A block of ours came back in a message: we hold it again, or once more. @throws Violation */
  takeOwn({ unit, generation, offset, byteLength, flags }: SpanEntry): void {
    if (!this.arena.isOut(unit, generation, offset + byteLength)) {
      throw new Violation("SPAN-3", `${byteLength} bytes of block ${unit}, which the peer does not have`);
    }
    if ((flags & SPAN.given) !== 0) this.arena.takeOver(unit);
    else this.arena.hold(unit);
  }

  // Blocks of the peer's arena.

  /** Bytes of a block that a received span names. */
  receivedBytes({ unit, offset, byteLength, flags }: SpanEntry): Uint8Array {
    const arena = (flags & SPAN.returned) !== 0 ? this.memory.ownArena : this.memory.peerArena;
    const from = unit * ARENA_UNIT_BYTES + offset;
    return arena.upTo(from + byteLength).subarray(from, from + byteLength);
  }

  /** Releases a block of the peer at once. */
  releaseToPeer(unit: number, generation: number): void {
    if (this.closed) return;
    this.releasesOut.release(unit, generation);
    this.releasesOut.publish();
    this.port.onReleased();
  }

  private release(lease: Lease, wasReturned: boolean): void {
    this.peerLeases.ended(lease);
    if (this.closed) return;
    if (wasReturned) this.port.sendRelease(lease.unit, lease.generation);
    else this.releaseToPeer(lease.unit, lease.generation);
  }

  /** Whether garbage here may hold blocks of this side's arena. */
  get holdsOwn(): boolean {
    return this.ownLeases.count > 0 || this.loans > 0;
  }

  /** Whether garbage here may hold blocks of the peer's arena. */
  get holdsPeers(): boolean {
    return this.peerLeases.count > 0;
  }

  // Life.

  /** Says which side holds the arena's memory, for an error about a lack of it. */
  describe(): string {
    const { arena } = this;
    const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    const { peer, own } = arena.holders();
    const refusal = arena.exhausted ?? arena.refused;
    return (
      `of the arena of ${mebibytes(arena.byteLength)}, ${mebibytes(this.loanedBytes)} are in ${this.loans} loans that this side has not sent, ` +
      `${mebibytes(peer.bytes)} in ${peer.blocks} blocks that the peer has not released, ` +
      `${mebibytes(own.bytes - this.loanedBytes)} in ${own.blocks - this.loans} blocks that this side holds: they wait to be sent, or came back in messages and were not released` +
      (refusal === undefined ? "" : `; ${refusal}`)
    );
  }

  stats() {
    const { arena, counts } = this;
    return {
      arenaBytes: arena.byteLength,
      arenaCommittedBytes: arena.committedBytes,
      arenaInUseBytes: arena.outstandingBytes,
      loans: this.loans,
      loanedBytes: this.loanedBytes,
      leases: this.peerLeases.count,
      leasedBytes: this.peerLeases.bytes,
      ...counts,
      viewsMade: this.ownViews.made + this.peerViews.made,
      viewsReused: this.ownViews.reused + this.peerViews.reused,
    };
  }

  /** The connection is over. Leases stay readable, and loans writable, until they are garbage. */
  close(): void {
    this.closed = true;
    // Leases outlive the connection, and must not keep it in memory.
    this.port = CLOSED_PORT;
    this.ownViews.clear();
    this.peerViews.clear();
    this.arena.close();
  }
}
