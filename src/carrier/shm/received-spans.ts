/**
 * The spans of the frame that is being delivered: leased or copied for a receiver that takes them, released if it does
 * not.
 */
import type { LeaseHandle, LeaseLifetime } from "../../memory/payload/lease.js";
import { Lease } from "../../memory/payload/lease.js";
import { Violation } from "../../memory/shm/violation.js";
import { memoryToFill } from "../../memory/v8/gc.js";
import type { Receiving } from "../../memory/receive/receiving.js";
import type { SpanEntry } from "../../wire/frame.js";
import { SPAN, SPANS_MAX } from "../../wire/frame.js";
import type { ReceivedFrame, SpanSource } from "../carrier.js";
import { wantsLease } from "./block-leases.js";
import type { Blocks } from "./blocks.js";
import type { RegionExchange } from "./region-exchange.js";

export interface ReceivedSpansOptions {
  /** The frame that is being delivered; reused for every frame. */
  readonly frame: ReceivedFrame;
  readonly blocks: Blocks;
  readonly regions: RegionExchange;
  readonly receiving: Receiving;
  /** Whether blocks may be leased at all: with isolation everything is copied. */
  readonly leasable: boolean;
}

export class ReceivedSpans implements SpanSource {
  readonly receiving: Receiving;
  private readonly frame: ReceivedFrame;
  private readonly blocks: Blocks;
  private readonly regions: RegionExchange;
  private readonly leasable: boolean;
  /** 1: the receiver took the span of this index. */
  private readonly taken = new Uint8Array(SPANS_MAX);

  constructor({ frame, blocks, regions, receiving, leasable }: ReceivedSpansOptions) {
    this.frame = frame;
    this.blocks = blocks;
    this.regions = regions;
    this.receiving = receiving;
    this.leasable = leasable;
  }

  takeSpan(index: number, lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): Uint8Array {
    const entry = this.frame.spans[index];
    const bytes =
      (entry.flags & SPAN.region) === 0
        ? this.takeBlock(entry, lifetime, callLabel, handles)
        : this.takeRegion(entry, lifetime, callLabel, handles);
    this.taken[index] = 1;
    return bytes;
  }

  /** Releases what the receiver did not take. @throws Violation */
  discardRest(spanCount: number): void {
    for (let i = 0; i < spanCount; i++) {
      const entry = this.frame.spans[i];
      if (this.taken[i] === 0) this.discard(entry);
      this.taken[i] = 0;
    }
  }

  private discard(entry: SpanEntry): void {
    if ((entry.flags & SPAN.region) !== 0) return this.regions.discard(entry.unit);
    if ((entry.flags & SPAN.returned) !== 0) this.blocks.takeOwn(entry);
    this.releaseBlock(entry);
  }

  private releaseBlock({ unit, generation, flags }: SpanEntry): void {
    if ((flags & SPAN.returned) !== 0) this.blocks.freeOwn(unit);
    else this.blocks.releaseToPeer(unit, generation);
  }

  private takeRegion(entry: SpanEntry, lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): Uint8Array {
    const { counts } = this.blocks;
    return this.regions.take(
      entry,
      lifetime,
      callLabel,
      handles,
      (isLeased) => counts[isLeased ? "spansLeased" : "spansCopiedOut"]++,
    );
  }

  /** @throws Violation if the span names a block that its sender does not have, or one more than there are slots for */
  private takeBlock(entry: SpanEntry, lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): Uint8Array {
    const { blocks } = this;
    const { byteLength } = entry;
    const isOwn = (entry.flags & SPAN.returned) !== 0;
    if (!isOwn && blocks.peerLeases.count >= blocks.slotsOfPeer)
      throw new Violation("RELEASE-1", `more than ${blocks.slotsOfPeer} blocks are out`);
    const leases = isOwn ? blocks.ownLeases : blocks.peerLeases;
    // With isolation, blocks of ours count too: the peer can write to them.
    const isLeased = wantsLease(lifetime, byteLength) && this.leasable && leases.mayAdd(byteLength);
    // Before the block belongs to anybody, because there may be no memory for a copy.
    let copy = isLeased ? undefined : memoryToFill(byteLength);
    if (isOwn) blocks.takeOwn(entry);
    if (isLeased) {
      try {
        const home = isOwn ? blocks.ownHome : blocks.peerHome;
        const bytes = Lease.open(home, entry, lifetime, callLabel, handles);
        leases.add(byteLength);
        blocks.counts.spansLeased++;
        return bytes;
      } catch (error) {
        // No mapping or address space is left. A copy needs none.
        if (error instanceof Violation) throw error;
      }
    }
    blocks.counts.spansCopiedOut++;
    copy ??= memoryToFill(byteLength);
    copy.set(blocks.receivedBytes(entry));
    this.releaseBlock(entry);
    return copy;
  }
}
