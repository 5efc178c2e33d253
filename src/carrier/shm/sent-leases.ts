/**
 * Leases that are sent from where their bytes lie: a block of ours is lent to the peer once more, and a block of the
 * peer goes back to it. If the lease ends when it is sent, its hold on the block goes with the frame. Otherwise the
 * lease is pinned until the frame is published.
 */
import type { Lease } from "../../memory/payload/lease.js";
import { SPAN } from "../../wire/frame.js";
import type { SentLease } from "../span-memory.js";
import type { BlockLeases } from "./block-leases.js";

/** The blocks that the leases are of. */
export interface LeasedBlocks {
  readonly ownLeases: BlockLeases;
  readonly peerLeases: BlockLeases;
  /** The promised lend is done: the peer holds the block besides us. */
  lendPromised(unit: number): void;
  /** The promised lend is done: a hold of ours becomes the peer's. */
  handOverPromised(unit: number): void;
  /** The promised lend will not be done. */
  breakPromise(): void;
  /** A hold of ours on a block of ours ends. */
  freeOwn(unit: number): void;
  /** Releases a block of the peer at once. */
  releaseToPeer(unit: number, generation: number): void;
}

/** Ends the user's right to the bytes. False: this lease does not end when it is sent, or something still needs it. */
function endsBySending(lease: Lease, bytes: Uint8Array, why: string): boolean {
  return lease.endsWhenSent && !lease.retained && lease.endByReturning(bytes.buffer as ArrayBuffer, why);
}

/** A lease of a block of ours. The lend was promised. */
export function placeOwnLease(blocks: LeasedBlocks, lease: Lease, bytes: Uint8Array, why: string): SentLease {
  const { unit, generation } = lease;
  const at = { unit, generation, offset: lease.offset + bytes.byteOffset, flags: 0 };
  if (endsBySending(lease, bytes, why)) {
    blocks.ownLeases.ended(lease);
    const release = () => {
      blocks.breakPromise();
      blocks.freeOwn(unit);
    };
    return { place: { ...at, passOn: () => blocks.handOverPromised(unit), release }, isTaken: true };
  }
  lease.pin();
  const passOn = () => {
    blocks.lendPromised(unit);
    lease.unpin();
  };
  const release = () => {
    blocks.breakPromise();
    lease.unpin();
  };
  return { place: { ...at, passOn, release }, isTaken: false };
}

/** A lease of a block of the peer. */
export function placePeerLease(blocks: LeasedBlocks, lease: Lease, bytes: Uint8Array, why: string): SentLease {
  const { unit, generation } = lease;
  const at = { unit, generation, offset: lease.offset + bytes.byteOffset };
  if (endsBySending(lease, bytes, why)) {
    blocks.peerLeases.ended(lease);
    const release = () => blocks.releaseToPeer(unit, generation);
    const flags = SPAN.returned | SPAN.given;
    return { place: { ...at, flags, passOn: () => undefined, release }, isTaken: true };
  }
  lease.pin();
  const passOn = () => {
    lease.markReturned();
    lease.unpin();
  };
  return { place: { ...at, flags: SPAN.returned, passOn, release: () => lease.unpin() }, isTaken: false };
}
