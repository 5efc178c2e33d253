/**
 * Regions on their way over one connection. Their descriptors go over the control socket. Each direction numbers them
 * from 1 in the order in which they are sent, and a span names a descriptor by its number.
 *
 * REGIONS-1  A descriptor is sent before the frame that names it is published. A receiver that has the frame finds the
 *            descriptor in the socket, if it has not taken it before.
 * REGIONS-2  Each number is named once: by a span, or by a `dropRegion` frame if its message was canceled before.
 * REGIONS-3  A sender has at most 64 numbers (those of one message) that no published frame names, because it finishes
 *            one message before it begins with another. If a receiver that has read all frames finds more, the sender
 *            broke the protocol.
 * REGIONS-4  A receiver maps at most 1,024 regions of a peer at once, and none when the mappings of its process have
 *            reached a quarter of what the kernel allows. Further regions are copied.
 */
import { readSync } from "node:fs";
import { memoryToFill } from "../../memory/v8/gc.js";
import type { LeaseHandle, LeaseHome, LeaseLifetime } from "../../memory/payload/lease.js";
import { Lease } from "../../memory/payload/lease.js";
import { keepNewInThread, letMove } from "../../memory/v8/array-buffer-transfer.js";
import { Violation } from "../../memory/shm/violation.js";
import type { BlockUser } from "../../memory/payload/block-views.js";
import { isSystemError, SEALS } from "../../os/addon.js";
import { mappingLimit } from "../../os/mapping-limit.js";
import type { SpanEntry } from "../../wire/frame.js";
import { SPANS_MAX } from "../../wire/frame.js";
import type { Delayed, Driver } from "../poll/poller.js";
import type { RegionLine, RegionSender } from "../span-memory.js";
import { wantsLease } from "./block-leases.js";
import type { DescriptorLine } from "./doorbell-line.js";

/** Most descriptors that one read of the socket brings. */
const BATCH_MAX = 16;
/** How long to wait before trying again, if the peer's socket buffer is full. */
const AGAIN_MS = 1;
/** Most regions of one peer that are mapped at once (REGIONS-4). */
const MAPPED_MAX = 1024;
/** The share of the kernel's limit that all mappings of the process together may reach before regions are copied. */
const MAPPED_SHARE = 0.25;
const NUMBER_MAX = 2 ** 32 - 1;
const REGION_SEALS = SEALS.WRITE | SEALS.SHRINK | SEALS.GROW;
const READ_BYTES_MAX = 1 << 30;

export class RegionExchange implements RegionLine {
  private readonly line: DescriptorLine;
  private readonly driver: Pick<Driver, "after">;
  private closed = false;
  // Sending.
  private sentNumber = 0;
  private sender: RegionSender | undefined;
  private readonly senders = new Set<RegionSender>();
  private again: Delayed | undefined;
  /** Numbers that no span will name. The carrier tells the peer, and removes them. */
  readonly dropped: number[] = [];
  private readonly onDropped: () => void;
  // Receiving.
  private arrivedNumber = 0;
  private readonly waiting = new Map<number, number>();
  /** Number of the peer's regions that are mapped here. */
  private mapped = 0;

  /** @param onDropped `dropped` has become longer */
  constructor(line: DescriptorLine, driver: Pick<Driver, "after">, onDropped: () => void) {
    this.line = line;
    this.driver = driver;
    this.onDropped = onDropped;
  }

  // Sending.

  get canSend(): boolean {
    return this.sentNumber + SPANS_MAX <= NUMBER_MAX;
  }

  send(sender: RegionSender, descriptor: number): number {
    if (this.closed) return 0;
    // SUBTLE: numbers that the peer has not been told of count too (REGIONS-3).
    if ((this.sender !== undefined && this.sender !== sender) || this.dropped.length > 0) {
      this.senders.add(sender);
      return 0;
    }
    this.sender = sender;
    if (!this.line.sendDescriptor(descriptor)) {
      this.senders.add(sender);
      this.again ??= this.driver.after(AGAIN_MS, () => {
        this.again = undefined;
        this.goOn();
      });
      return 0;
    }
    return ++this.sentNumber;
  }

  finish(sender: RegionSender, unnamed: readonly number[]): void {
    this.senders.delete(sender);
    if (this.closed || this.sender !== sender) return;
    this.sender = undefined;
    if (unnamed.length > 0) {
      this.dropped.push(...unnamed);
      this.onDropped();
    }
    this.goOn();
  }

  /** The peer was told all numbers in `dropped`. */
  droppedSent(): void {
    this.goOn();
  }

  private goOn(): void {
    const senders = [...this.senders];
    this.senders.clear();
    for (const sender of senders) sender.onReady();
  }

  // Receiving.

  /** Whether more descriptors wait than an honest peer sends before its next frame. */
  get isCrowded(): boolean {
    return this.waiting.size > SPANS_MAX;
  }

  /** Number of descriptors that have arrived so far. */
  get arrivals(): number {
    return this.arrivedNumber;
  }

  /** Takes descriptors that arrived, in order. */
  arrived(descriptors: readonly number[]): void {
    for (const descriptor of descriptors) {
      if (this.closed) this.line.addon.closeDescriptor(descriptor);
      else this.waiting.set(++this.arrivedNumber, descriptor);
    }
  }

  /**
   * Returns the bytes of a span, leased or copied, and closes its descriptor.
   * @throws Violation if there is no such descriptor, or it does not refer to a region
   */
  take(
    entry: SpanEntry,
    lifetime: LeaseLifetime,
    callLabel: string,
    handles: LeaseHandle[],
    onLeased: (isLeased: boolean) => void,
  ): Uint8Array {
    const descriptor = this.claim(entry.unit);
    const { addon } = this.line;
    try {
      this.check(descriptor, entry);
      const { offset, byteLength } = entry;
      if (wantsLease(lifetime, byteLength) && this.mayMap) {
        try {
          const range = { unit: 0, generation: 0, offset, byteLength };
          const bytes = Lease.open(this.homeOf(descriptor), range, lifetime, callLabel, handles);
          onLeased(true);
          return bytes;
        } catch (error) {
          // No mapping or address space is left. A copy needs none.
          if (!isSystemError(error)) throw error;
        }
      }
      onLeased(false);
      return copyOf(descriptor, offset, byteLength);
    } finally {
      addon.closeDescriptor(descriptor);
    }
  }

  /** Closes the descriptor of a span that was not taken. @throws Violation if there is no such descriptor */
  discard(number: number): void {
    this.line.addon.closeDescriptor(this.claim(number));
  }

  private claim(number: number): number {
    // REGIONS-1: if it is not here, it is in the socket.
    while (number > this.arrivedNumber && this.waiting.size <= SPANS_MAX + BATCH_MAX && this.line.fetch());
    const descriptor = this.waiting.get(number);
    if (descriptor === undefined)
      throw new Violation("SPAN-4", `region ${number} has no descriptor, or was named before`);
    this.waiting.delete(number);
    return descriptor;
  }

  private check(descriptor: number, { unit, offset, byteLength }: SpanEntry): void {
    const broken = (what: string) => new Violation("SPAN-5", `region ${unit} ${what}`);
    let found;
    try {
      found = this.line.addon.inspectSegment(descriptor);
    } catch (error) {
      throw broken(`is not a memfd that can be mapped: ${(error as Error).message}`);
    }
    if ((found.seals & REGION_SEALS) !== REGION_SEALS)
      throw broken(`has seals ${found.seals}, not all of ${REGION_SEALS}`);
    if (offset + byteLength > found.byteLength)
      throw broken(`has ${found.byteLength} bytes, but ${byteLength} from ${offset} on were announced`);
    // Reading a page that was never written allocates memory, which is charged to the reader.
    if (found.allocatedBytes < found.byteLength)
      throw broken(`has memory for ${found.allocatedBytes} of its ${found.byteLength} bytes`);
  }

  /** REGIONS-4 */
  private get mayMap(): boolean {
    return this.mapped < MAPPED_MAX && this.line.addon.mappingCount() < mappingLimit() * MAPPED_SHARE;
  }

  /** The home of leases of a region. Its memory belongs to the peer, so unmapping it is all there is to do. */
  private homeOf(descriptor: number): LeaseHome {
    const { addon } = this.line;
    return {
      views: {
        open: (_, offset, byteLength, user) => {
          // Copy-on-write: a store here does not reach the sealed memory, and is visible only here.
          const buffer = keepNewInThread(addon.mapPrivate(descriptor, offset, byteLength));
          this.mapped++;
          collected.register(buffer, user);
          return buffer;
        },
        detach(buffer) {
          if (buffer.byteLength === 0) return false;
          letMove(buffer);
          addon.detachMapping(buffer);
          return true;
        },
      },
      release: () => void this.mapped--,
    };
  }

  /** The connection is over. */
  close(): void {
    this.closed = true;
    this.again?.cancel();
    this.senders.clear();
    this.dropped.length = 0;
    for (const descriptor of this.waiting.values()) this.line.addon.closeDescriptor(descriptor);
    this.waiting.clear();
  }
}

const collected = new FinalizationRegistry<BlockUser>((user) => user.onCollected());

function copyOf(descriptor: number, offset: number, byteLength: number): Uint8Array {
  const copy = memoryToFill(byteLength);
  for (let at = 0; at < byteLength; ) {
    const bytesRead = readSync(descriptor, copy, at, Math.min(byteLength - at, READ_BYTES_MAX), offset + at);
    if (bytesRead === 0) throw new Violation("SPAN-5", "a region ends before its size");
    at += bytesRead;
  }
  return copy;
}
