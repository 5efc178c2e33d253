/**
 * What send/ sees of the memory that a connection shares with its peer: blocks to copy large values into, and loans,
 * leases and regions that are sent from where they lie.
 */
import type { Lease } from "../memory/payload/lease.js";
import type { Loan } from "../memory/payload/loan.js";

/**
 * A large value's entry in a frame's splice table, together with this side's hold on its memory. Exactly one of the two
 * methods is called, once (PAYLOAD-1).
 */
export interface SpanPlace {
  readonly unit: number;
  readonly generation: number;
  readonly offset: number;
  readonly flags: number;
  /** The frame that names the memory is about to be published: the hold passes to the peer. */
  passOn(): void;
  /** The value is not sent: the hold ends. */
  release(): void;
}

/** A lease that is sent from where its bytes lie. */
export interface SentLease {
  readonly place: SpanPlace;
  /** Sending has ended the user's right to the bytes. */
  readonly isTaken: boolean;
}

/** Reads memory that its user may no longer be able to see. */
export type ReadAgain = (byteOffset: number, byteLength: number) => Uint8Array;

export interface SpanMemory {
  /** A sender keeps the event loop from turning until everything is sent, so nothing may be left to a later turn. */
  readonly isBlocking: boolean;
  /** The way for values that lie in a region; undefined: they are copied. */
  readonly regions: RegionLine | undefined;
  /** This side isolates itself from the peer: what a message does not contain is not shown to it. */
  readonly isIsolated: boolean;
  readonly counts: SpanCounts;

  // Blocks of this side's arena.

  /** Takes a block of `byteLength` bytes with one hold; returns its unit, or −1 if there is none now. */
  allocate(byteLength: number): number;
  /**
   * Whether a block that cannot be had now may be had in a later turn of the event loop, whatever the peer does.
   */
  mayGrowFor(byteLength: number): boolean;
  /** Bytes of a block; valid until the next `allocate`. */
  bytesOf(unit: number, byteLength: number): Uint8Array;
  /** A view of a block that is valid until `close`, whatever becomes of the connection. */
  openForReading(unit: number, byteLength: number): { readonly bytes: Uint8Array; readonly close: () => void };
  /** The generation that the block's current use has, for a frame that names it. */
  generationOf(unit: number): number;
  /** A hold of this side passes to the peer: the frame that names the block is about to be published. */
  handOver(unit: number): void;
  /** A hold of this side ends. */
  freeOwn(unit: number): void;

  // Loans and leases of this connection.

  isOwnLoan(loan: Loan): boolean;
  /** A loan is sent in its block. The block is no longer a loan; its hold passes to the caller. */
  loanSent(unit: number): void;
  /** How a lease's memory is read, even after the lease has ended; undefined: it is no lease of this connection. */
  reader(lease: Lease): ReadAgain | undefined;
  /**
   * Sends a lease's bytes from where they lie. Undefined: they have to be copied, because the peer has no slot left to
   * release the block with.
   * @param why becomes the reason that the lease is gone, if sending ends it
   */
  placeLease(lease: Lease, bytes: Uint8Array, why: string): SentLease | undefined;
  /**
   * Ends a lease of the peer's block, to return the block to the peer in a frame. False: sending does not end this
   * lease, or something else still needs its block.
   */
  takeBack(lease: Lease, buffer: ArrayBuffer, why: string): boolean;
}

export interface SpanCounts {
  spansSentInPlace: number;
  spansCopiedIn: number;
}

/** Sends the descriptors of regions, numbered, before the frame that names them. */
export interface RegionLine {
  /** Whether there are numbers left. If not, regions are copied. */
  readonly canSend: boolean;
  /** Sends a descriptor and returns its number; 0: it could not be sent now, and `sender.onReady` follows. */
  send(sender: RegionSender, descriptor: number): number;
  /**
   * The frame that names all numbers of the sender's message is about to be published, or none ever will.
   * @param unnamed numbers that no frame will name
   */
  finish(sender: RegionSender, unnamed: readonly number[]): void;
}

/** The sender of one message's descriptors. */
export interface RegionSender {
  /** It is worth another try. */
  onReady(): void;
}
