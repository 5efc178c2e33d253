/**
 * The payload memory of one connection, both directions: blocks of this side's arena on their way to the peer, and
 * blocks of the peer's that are leased here. Who holds what is counted here; what is sent when is the carrier's and the
 * sendQueue's.
 *
 * BLOCKS-1  A block of ours is lent to the peer before the frame that names it is published, and a block that comes
 *           back in a frame is ours again only if the peer had it.
 * BLOCKS-2  A receiver that leases half of the peer's arena, or half as many blocks as may be out, copies what comes,
 *           and gives it back at once: the sender can always go on. The same holds for blocks of its own that came
 *           back.
 * BLOCKS-3  Blocks that are out, and the further times that one of them was lent, are never more than the peer has
 *           slots to release them.
 */
import { Arena } from "../../memory/shared/arena.js";
import type { BlockUser } from "../../memory/payload/block-views.js";
import { BitSet } from "../../memory/shared/bit-set.js";
import { BlockViews } from "../../memory/payload/block-views.js";
import { memoryToFill } from "../../memory/v8/gc.js";
import { ARENA_UNIT_BYTES, RING_DATA_OFFSET } from "../../memory/shared/layout.js";
import type { LeaseHandle, LeaseHome, LeaseLifetime } from "../../memory/payload/lease.js";
import { Lease } from "../../memory/payload/lease.js";
import type { LoanHome } from "../../memory/payload/loan.js";
import { Loan } from "../../memory/payload/loan.js";
import { ReleaseReader, ReleaseWriter } from "../../memory/shared/releases.js";
import type { ConnectionMemory } from "../../memory/shared/segment.js";
import { Violation } from "../../memory/shared/violation.js";
import type { WordAccess } from "../../memory/shared/words.js";
import type { Parts } from "../../wire/parts.js";
import type { RegionExchange } from "./region-exchange.js";
import type { SpanEntry } from "../../wire/frame.js";
import { SPAN } from "../../wire/frame.js";

/** What the blocks ask of their carrier. */
export interface BlocksPort {
  /** There may be room now for what waited. */
  onRoom(): void;
  /** Released blocks were published. */
  onReleased(): void;
  /** Gives back a block of the peer's in the order of the frames, because one on its way names it. */
  sendRelease(unit: number, generation: number): void;
}

/**
 * Bytes of large messages that are copied to blocks fragment by fragment at once: enough for one side to copy in while
 * the other copies out, little enough that a small message never waits long behind them.
 */
const IN_FLIGHT_BYTES_MAX = 2 << 20;
/**
 * From this size on, in bytes, what arrives in a block is leased; below, copied. Measured (2-core VM, Node 20): a lease
 * costs 3 to 5 µs and a share of a garbage collection, a copy of 32 KiB to new memory about as much.
 */
export const LEASE_BYTES_MIN = 32 << 10;

const NOBODY: BlocksPort = { onRoom: () => undefined, onReleased: () => undefined, sendRelease: () => undefined };

export class Blocks {
  readonly arena: Arena;
  readonly ownViews: BlockViews;
  /** The way of values that are in no arena; undefined: there is none. Set by the carrier. */
  regions: RegionExchange | undefined;
  /** Whoever sends keeps the event loop from turning until everything is sent. Set by who drives the carrier. */
  isBlocking = false;
  private readonly memory: ConnectionMemory;
  private port: BlocksPort;
  private readonly releasesIn: ReleaseReader;
  private readonly releasesOut: ReleaseWriter;
  private readonly releaseSlots: number;
  private readonly slotsOfPeer: number;
  private readonly peerViews: BlockViews;
  private readonly onRelease = (unit: number, generation: number) => this.released(unit, generation);
  /** Units of the fragments on their way, … */
  private readonly fragments = new BitSet();
  /** … and the memory that they take. */
  private fragmentBytes = 0;
  private closed = false;
  // Of the peer's arena.
  private leases = 0;
  private leasedBytes = 0;
  // Of blocks of ours that came back in messages.
  private ownLeases = 0;
  private ownLeasedBytes = 0;
  /** Leases on blocks of ours that are about to be lent to the peer once more. */
  private promisedLends = 0;
  private loans = 0;
  private loanedBytes = 0;
  /** Blocks that came back so far. */
  releases = 0;
  readonly copies = { spansLeased: 0, spansCopiedIn: 0, spansCopiedOut: 0, spansSentInPlace: 0 };
  private readonly ownHome: LoanHome & LeaseHome;
  private readonly peerHome: LeaseHome;

  constructor(memory: ConnectionMemory, port: BlocksPort, words: WordAccess) {
    const { ownGeometry, peerGeometry, ownRing, peerRing } = memory;
    this.memory = memory;
    this.port = port;
    const own = new Int32Array(ownRing, 0, RING_DATA_OFFSET / 4);
    const peer = new Int32Array(peerRing, 0, RING_DATA_OFFSET / 4);
    this.arena = new Arena(memory.ownPages, memory.budget, () => this.port.onRoom());
    this.releasesOut = new ReleaseWriter(own, ownGeometry.releaseSlots, words);
    this.releasesIn = new ReleaseReader(peer, peerGeometry.releaseSlots, words);
    this.releaseSlots = peerGeometry.releaseSlots;
    this.slotsOfPeer = ownGeometry.releaseSlots;
    this.ownViews = new BlockViews(memory.ownArena, ARENA_UNIT_BYTES);
    this.peerViews = new BlockViews(memory.peerArena, ARENA_UNIT_BYTES);
    this.ownHome = {
      views: this.ownViews,
      dropBlock: (unit) => this.freeLoan(unit),
      release: (lease) => {
        this.ownLeaseEnded(lease);
        this.freeOwn(lease.unit);
      },
    };
    this.peerHome = { views: this.peerViews, release: (lease, wasReturned) => this.release(lease, wasReturned) };
  }

  // Blocks of ours.

  /** A block of `byteLength` bytes, held once: its unit, or −1 when there is none at the moment. */
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
      // No address space or no mapping left: like no memory.
      this.arena.free(unit, error);
      return -1;
    }
  }

  /** BLOCKS-3 (RELEASE-1) */
  private get hasSlot(): boolean {
    return this.arena.releasesDue + this.promisedLends < this.releaseSlots;
  }

  /**
   * Asks whether a block of ours may be lent to the peer once more than it is; if so, one of the three below has to
   * follow.
   */
  promiseLend(): boolean {
    if (!this.hasSlot) this.collectReleases();
    if (!this.hasSlot) return false;
    this.promisedLends++;
    return true;
  }

  /** The promised lend is done, … */
  lendPromised(unit: number): void {
    this.promisedLends--;
    this.arena.lend(unit);
  }

  /** … with a hold of ours that becomes the peer's, … */
  handOverPromised(unit: number): void {
    this.promisedLends--;
    this.arena.handOver(unit);
  }

  /** … or will not be. */
  breakPromise(): void {
    this.promisedLends--;
  }

  /** Size of the largest block that there can be. */
  get blockBytesMax(): number {
    return this.arena.byteLength - ARENA_UNIT_BYTES;
  }

  /** Whether a block that is not to be had now may be had in a later turn of the loop, whatever the peer does. */
  get mayGrow(): boolean {
    return this.hasSlot && this.arena.mayGrow;
  }

  /**
   * Copies the next `byteLength` bytes of a large message to a block that the peer holds from now on: its unit; −1:
   * there will be room; −2: there may never be, as all memory is in blocks that perhaps nobody gives back (loans,
   * leases).
   * @throws Error if the bytes are gone
   */
  placeFragment(source: Parts, byteLength: number): number {
    if (this.fragmentBytes + byteLength > IN_FLIGHT_BYTES_MAX) return this.wait();
    const unit = this.allocate(byteLength);
    if (unit < 0) return this.fragments.size > 0 || this.mayGrow || this.arena.exhausted !== undefined ? -1 : -2;
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

  private wait(): number {
    this.collectReleases();
    return -1;
  }

  /** Bytes of a block of ours; valid until the next `allocate`. */
  bytesOf(unit: number, byteLength: number): Uint8Array {
    const from = unit * ARENA_UNIT_BYTES;
    return this.memory.ownArena.upTo(from + byteLength).subarray(from, from + byteLength);
  }

  /**
   * Memory of a block of ours to be filled in the background: valid until `close`, whatever becomes of the connection.
   */
  openForReading(unit: number, byteLength: number): { readonly bytes: Uint8Array; readonly close: () => void } {
    const user: BlockUser = { view: undefined, onCollected: () => undefined };
    const buffer = this.ownViews.open(unit, 0, byteLength, user);
    return { bytes: new Uint8Array(buffer), close: () => void this.ownViews.detach(buffer, user) };
  }

  /** One hold of ours on a block ends. */
  freeOwn(unit: number): void {
    if (this.closed) return;
    this.arena.free(unit);
    this.port.onRoom();
  }

  /** A loan of `byteLength` bytes, or undefined when there is no room at the moment. */
  loan(byteLength: number): Uint8Array | undefined {
    const unit = this.allocate(byteLength);
    if (unit < 0) return undefined;
    this.loans++;
    this.loanedBytes += this.arena.bytesOf(unit);
    return Loan.ofBlock(this.ownHome, unit, byteLength);
  }

  /** The loan of a block was sent: the block is no loan any more. */
  loanSent(unit: number): void {
    this.loans--;
    this.loanedBytes -= this.arena.bytesOf(unit);
  }

  private freeLoan(unit: number): void {
    if (this.closed) return;
    this.loanSent(unit);
    this.freeOwn(unit);
  }

  isOwnLoan(loan: Loan): boolean {
    return loan.home === this.ownHome && !this.closed;
  }

  /** Whose block a lease is of, if it is one of this connection. */
  ownerOf(lease: Lease): "own" | "peer" | undefined {
    if (this.closed) return undefined;
    if (lease.home === this.peerHome) return "peer";
    return lease.home === this.ownHome ? "own" : undefined;
  }

  /** How the memory of a lease of this connection is read, whoever has its bytes; valid until the next `allocate`. */
  reader(lease: Lease, owner: "own" | "peer"): (byteOffset: number, byteLength: number) => Uint8Array {
    const arena = owner === "own" ? this.memory.ownArena : this.memory.peerArena;
    const start = lease.unit * ARENA_UNIT_BYTES + lease.offset;
    return (byteOffset, byteLength) =>
      arena.upTo(start + byteOffset + byteLength).subarray(start + byteOffset, start + byteOffset + byteLength);
  }

  collectReleases(): void {
    if (this.releasesIn.hasReleases()) this.releasesIn.collect(this.onRelease);
  }

  hasReleases(): boolean {
    return this.releasesIn.hasReleases();
  }

  /** The peer released a block of ours. @throws Violation */
  released(unit: number, generation: number): void {
    // Before it may be joined with its neighbours; of no use if it is not a block, which `release` finds out.
    const blockBytes = this.arena.bytesOf(unit);
    this.arena.release(unit, generation);
    this.releases++;
    if (this.fragments.delete(unit)) this.fragmentBytes -= blockBytes;
  }

  // Blocks of the peer's.

  /** A block that was copied out goes back. */
  releaseToPeer(unit: number, generation: number): void {
    if (this.closed) return;
    this.releasesOut.release(unit, generation);
    this.releasesOut.publish();
    this.port.onReleased();
  }

  private release(lease: Lease, wasReturned: boolean): void {
    this.leaseEnded(lease);
    if (this.closed) return;
    if (wasReturned) this.port.sendRelease(lease.unit, lease.generation);
    else this.releaseToPeer(lease.unit, lease.generation);
  }

  /** Whether garbage here may hold blocks of ours, … */
  get holdsOwn(): boolean {
    return this.ownLeases > 0 || this.loans > 0;
  }

  /** … or of the peer's. */
  get holdsPeers(): boolean {
    return this.leases > 0;
  }

  /** A lease on a block of ours is over, and the block is still held. */
  ownLeaseEnded(lease: Lease): void {
    this.ownLeases--;
    this.ownLeasedBytes -= lease.byteLength;
  }

  /** A lease on a block of the peer's is over. */
  leaseEnded(lease: Lease): void {
    this.leases--;
    this.leasedBytes -= lease.byteLength;
  }

  /**
   * The bytes of a span that arrived: leased, or copied to the heap. Called once for each.
   * @param handles the lease is added to them
   * @throws Violation if it names a block that this side does not have out, or more than there are slots for
   */
  take(entry: SpanEntry, lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): Uint8Array {
    const { unit, generation, offset, byteLength } = entry;
    const isOwn = (entry.flags & SPAN.returned) !== 0;
    if (!isOwn && this.leases >= this.slotsOfPeer)
      throw new Violation("RELEASE-1", `more than ${this.slotsOfPeer} blocks are out`);
    const wanted = lifetime === "strict" || (lifetime !== "copied" && byteLength >= LEASE_BYTES_MIN);
    const leases = byteLength > 0 && wanted && this.mayLease(isOwn, byteLength);
    // Before the block is anybody's: there may be no memory.
    let copy = leases ? undefined : memoryToFill(byteLength);
    if (isOwn) this.takeOwn(entry);
    if (leases) {
      try {
        const bytes = Lease.open(isOwn ? this.ownHome : this.peerHome, entry, lifetime, callLabel, handles);
        if (isOwn) {
          this.ownLeases++;
          this.ownLeasedBytes += byteLength;
        } else {
          this.leases++;
          this.leasedBytes += byteLength;
        }
        this.copies.spansLeased++;
        return bytes;
      } catch (error) {
        // No mapping or address space left: a copy needs none.
        if (error instanceof Violation) throw error;
      }
    }
    this.copies.spansCopiedOut++;
    const arena = isOwn ? this.memory.ownArena : this.memory.peerArena;
    const from = unit * ARENA_UNIT_BYTES + offset;
    copy ??= memoryToFill(byteLength);
    copy.set(arena.upTo(from + byteLength).subarray(from, from + byteLength));
    if (isOwn) this.freeOwn(unit);
    else this.releaseToPeer(unit, generation);
    return copy;
  }

  /** BLOCKS-2. With isolation, blocks of ours count too: the peer can write to them. */
  private mayLease(isOwn: boolean, byteLength: number): boolean {
    const { leasable, ownArena, peerArena } = this.memory;
    if (!leasable) return false;
    if (isOwn)
      return this.ownLeases < this.releaseSlots / 2 && this.ownLeasedBytes + byteLength <= ownArena.byteLength / 2;
    return this.leases < this.slotsOfPeer / 2 && this.leasedBytes + byteLength <= peerArena.byteLength / 2;
  }

  /** A span that arrived is not wanted. @throws Violation like `take` */
  discard(entry: SpanEntry): void {
    if ((entry.flags & SPAN.returned) === 0) return this.releaseToPeer(entry.unit, entry.generation);
    this.takeOwn(entry);
    this.freeOwn(entry.unit);
  }

  /** A block of ours came back in a message: we hold it (again). */
  private takeOwn({ unit, generation, offset, byteLength, flags }: SpanEntry): void {
    if (!this.arena.isOut(unit, generation, offset + byteLength)) {
      throw new Violation("SPAN-3", `${byteLength} bytes of block ${unit}, which the peer does not have`);
    }
    if ((flags & SPAN.given) !== 0) this.arena.takeOver(unit);
    else this.arena.hold(unit);
  }

  // Life.

  /** Who has the arena's memory, for an error that says that there is none. */
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
    const { arena, copies } = this;
    return {
      arenaBytes: arena.byteLength,
      arenaCommittedBytes: arena.committedBytes,
      arenaInUseBytes: arena.outstandingBytes,
      loans: this.loans,
      loanedBytes: this.loanedBytes,
      leases: this.leases,
      leasedBytes: this.leasedBytes,
      ...copies,
      viewsMade: this.ownViews.made + this.peerViews.made,
      viewsReused: this.ownViews.reused + this.peerViews.reused,
    };
  }

  /** The connection is over. What is leased stays readable, and what is loaned writable, until it is garbage. */
  close(): void {
    this.closed = true;
    // What is leased outlives the connection, and does not keep it in memory.
    this.port = NOBODY;
    this.ownViews.clear();
    this.peerViews.clear();
    this.arena.close();
  }
}
