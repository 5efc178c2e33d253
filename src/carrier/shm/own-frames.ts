/**
 * Frames of the connection itself: releases that must follow frames on their way, numbers of regions that no frame will
 * name, and the request to collect garbage. They are written when there is room, in a step of the poller.
 *
 * SUBTLE: never at once. A lease may end while a message is being encoded at the ring's tail.
 */
import {
  BLOCK_REFERENCE_BYTES,
  FIELD,
  FRAME_HEADER_BYTES,
  KIND,
  packKindFlagsCode,
  writeUint32,
} from "../../wire/frame.js";
import type { FrameSpace } from "../carrier.js";
import type { RegionExchange } from "./region-exchange.js";

export class OwnFrames {
  private readonly carrier: FrameSpace & { readonly closed: boolean };
  private readonly regions: RegionExchange;
  /** Pairs of unit and generation. */
  private readonly releases: number[] = [];
  private isStarved = false;

  constructor(carrier: FrameSpace & { readonly closed: boolean }, regions: RegionExchange) {
    this.carrier = carrier;
    this.regions = regions;
  }

  get arePending(): boolean {
    return this.isStarved || this.releases.length > 0 || this.regions.dropped.length > 0;
  }

  /** Releases a block of the peer behind all frames that were committed so far. */
  release(unit: number, generation: number): void {
    this.releases.push(unit, generation);
  }

  /** Asks the peer to collect garbage, which may hold blocks that this side waits for. */
  sayStarved(): void {
    this.isStarved = true;
  }

  /** Writes what there is room for. */
  send(): void {
    this.sendReleases();
    this.sendDroppedRegions();
    if (this.isStarved && this.writeHeader(KIND.starved, 0)) {
      this.isStarved = false;
      this.carrier.commit(FRAME_HEADER_BYTES);
    }
  }

  private sendReleases(): void {
    const { carrier, releases } = this;
    let sent = 0;
    for (; sent < releases.length; sent += 2) {
      if (!this.writeHeader(KIND.release, BLOCK_REFERENCE_BYTES)) break;
      const at = carrier.index + FRAME_HEADER_BYTES;
      writeUint32(carrier.ringBytes, at, releases[sent]);
      writeUint32(carrier.ringBytes, at + 4, releases[sent + 1]);
      carrier.commit(FRAME_HEADER_BYTES + BLOCK_REFERENCE_BYTES);
    }
    releases.splice(0, sent);
  }

  private sendDroppedRegions(): void {
    const { carrier } = this;
    const { dropped } = this.regions;
    if (dropped.length === 0) return;
    while (dropped.length > 0 && this.writeHeader(KIND.dropRegion, 0)) {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the loop ends when it is empty
      carrier.ringWords[(carrier.index >> 2) + FIELD.argument] = dropped.shift()!;
      carrier.commit(FRAME_HEADER_BYTES);
    }
    // Before the next descriptor, so that the peer can count (REGIONS-3).
    if (!carrier.closed) carrier.publish();
    if (dropped.length === 0) this.regions.droppedSent();
  }

  /** Writes the header of a frame, if there is room. */
  private writeHeader(kind: number, metadataLength: number): boolean {
    const { carrier } = this;
    const byteLength = FRAME_HEADER_BYTES + metadataLength;
    if (carrier.freeBytes() < byteLength) return false;
    const { ringWords } = carrier;
    const at = carrier.index >> 2;
    ringWords.fill(0, at, at + FRAME_HEADER_BYTES / 4);
    ringWords[at + FIELD.byteLength] = byteLength;
    ringWords[at + FIELD.kindFlagsCode] = packKindFlagsCode(kind, 0, 0);
    ringWords[at + FIELD.metadataLength] = metadataLength;
    return true;
  }
}
