/**
 * RegionExchange on their way over one connection. Their descriptors go over the control socket, numbered from 1 in
 * each direction in the order in which they are sent; a frame's span names one by its number.
 *
 * REGIONS-1  A descriptor is sent before the frame that names it is published. A receiver that has the frame finds the
 *            descriptor in the socket at the latest.
 * REGIONS-2  Each number is named once: by a span, or, if its message was given up before, by a `dropRegion` frame.
 * REGIONS-3  A sender has at most 64 numbers (those of one message) that no published frame names: it finishes one
 *            message's before it begins with another's. So if more wait at a receiver that has read all frames, the
 *            sender broke the protocol.
 */
import { readSync } from "node:fs";
import { memoryToFill } from "../../memory/v8/gc.js";
import type { LeaseHandle, LeaseHome, LeaseLifetime } from "../../memory/payload/lease.js";
import { Lease } from "../../memory/payload/lease.js";
import { keepNewInThread, letMove } from "../../memory/v8/array-buffer-transfer.js";
import { Violation } from "../../memory/shared/violation.js";
import type { BlockUser } from "../../memory/payload/block-views.js";
import type { Addon } from "../../os/addon.js";
import { isSystemError, SEALS } from "../../os/addon.js";
import type { SpanEntry } from "../../wire/frame.js";
import { SPANS_MAX } from "../../wire/frame.js";
import type { Delayed, Driver } from "../poll/poller.js";

/** The control socket, as far as regions need it. */
export interface DescriptorLine {
  readonly addon: Addon;
  /** Sends a descriptor with its byte; never waits. False: not now, or never more. */
  sendDescriptor(descriptor: number): boolean;
  /** Takes what is in the socket, descriptors for `RegionExchange.arrived` among it. False if there was nothing. */
  fetch(): boolean;
}

/** Most descriptors that one read of the socket brings. */
const BATCH_MAX = 16;
/** The peer's socket buffer is full; before it is tried again. */
const AGAIN_MS = 1;
const NUMBER_MAX = 2 ** 32 - 1;
const REGION_SEALS = SEALS.WRITE | SEALS.SHRINK | SEALS.GROW;
/** See `LEASE_BYTES_MIN` of blocks.ts: below, a copy costs less. */
const REGION_LEASE_BYTES_MIN = 32 << 10;
const READ_BYTES_MAX = 1 << 30;

/** Whoever sends the descriptors of one message. */
export interface RegionSender {
  /** It may go on. */
  onReady(): void;
}

export class RegionExchange {
  private readonly line: DescriptorLine;
  private readonly driver: Pick<Driver, "after">;
  private closed = false;
  // Sending.
  private sentNumber = 0;
  private sender: RegionSender | undefined;
  private readonly senders = new Set<RegionSender>();
  private again: Delayed | undefined;
  /** Numbers that no span will name; whoever publishes frames tells the peer, and takes them out. */
  readonly dropped: number[] = [];
  private readonly onDropped: () => void;
  // Receiving.
  private arrivedNumber = 0;
  private readonly waiting = new Map<number, number>();

  /** @param onDropped `dropped` has become longer */
  constructor(line: DescriptorLine, driver: Pick<Driver, "after">, onDropped: () => void) {
    this.line = line;
    this.driver = driver;
    this.onDropped = onDropped;
  }

  // Sending.

  /** Whether there are numbers left; without, regions are copied. */
  get canSend(): boolean {
    return this.sentNumber + SPANS_MAX <= NUMBER_MAX;
  }

  /**
   * Sends one descriptor of a message of `sender`. Returns its number; 0: `sender.onReady` follows when it is worth
   * another try.
   */
  send(sender: RegionSender, descriptor: number): number {
    if (this.closed) return 0;
    // SUBTLE: numbers that the peer was not told of yet count, too (REGIONS-3).
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

  /** The frame that names all numbers of the sender's message is about to be published, or none ever will. */
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

  /** All of `dropped` was told to the peer. */
  droppedSent(): void {
    this.goOn();
  }

  private goOn(): void {
    const senders = [...this.senders];
    this.senders.clear();
    for (const sender of senders) sender.onReady();
  }

  // Receiving.

  /** Whether more may wait than an honest peer would have sent before its next frame. */
  get isCrowded(): boolean {
    return this.waiting.size > SPANS_MAX;
  }

  /** Descriptors that came so far. */
  get arrivals(): number {
    return this.arrivedNumber;
  }

  /** Descriptors came, in order; they belong to this from now on. */
  arrived(descriptors: readonly number[]): void {
    for (const descriptor of descriptors) {
      if (this.closed) this.line.addon.closeDescriptor(descriptor);
      else this.waiting.set(++this.arrivedNumber, descriptor);
    }
  }

  /**
   * The bytes of a span, leased or copied. Its descriptor is closed then.
   * @throws Violation if there is no such descriptor, or it is no region
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
      const isWanted = lifetime === "strict" || (lifetime !== "copied" && byteLength >= REGION_LEASE_BYTES_MIN);
      if (isWanted && byteLength > 0) {
        try {
          const range = { unit: 0, generation: 0, offset, byteLength };
          const bytes = Lease.open(homeOf(addon, descriptor), range, lifetime, callLabel, handles);
          onLeased(true);
          return bytes;
        } catch (error) {
          // No mapping or address space left: a copy needs none.
          if (!isSystemError(error)) throw error;
        }
      }
      onLeased(false);
      return copyOf(descriptor, offset, byteLength);
    } finally {
      addon.closeDescriptor(descriptor);
    }
  }

  /** The descriptor of a number is not wanted. @throws Violation if there is none */
  discard(number: number): void {
    this.line.addon.closeDescriptor(this.claim(number));
  }

  private claim(number: number): number {
    // REGIONS-1: it is in the socket, if it is not here.
    while (number > this.arrivedNumber && this.waiting.size <= SPANS_MAX + BATCH_MAX && this.line.fetch());
    const descriptor = this.waiting.get(number);
    if (descriptor === undefined)
      throw new Violation("SPAN-4", `region ${number}, of which no descriptor came, or which was named before`);
    this.waiting.delete(number);
    return descriptor;
  }

  private check(descriptor: number, { unit, offset, byteLength }: SpanEntry): void {
    const broken = (what: string) => new Violation("SPAN-5", `region ${unit} ${what}`);
    let found;
    try {
      found = this.line.addon.inspectSegment(descriptor);
    } catch (error) {
      throw broken(`is no memfd that can be mapped: ${(error as Error).message}`);
    }
    if ((found.seals & REGION_SEALS) !== REGION_SEALS)
      throw broken(`has seals ${found.seals}, not all of ${REGION_SEALS}`);
    if (offset + byteLength > found.byteLength)
      throw broken(`has ${found.byteLength} bytes, and ${byteLength} from ${offset} on were announced`);
    // Reading a page that nobody has written takes memory, on the reader's account.
    if (found.allocatedBytes < found.byteLength)
      throw broken(`has memory for ${found.allocatedBytes} of its ${found.byteLength} bytes`);
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

/** A region goes back to nobody: its memory is the peer's, and unmapping it is all there is to do. */
function homeOf(addon: Addon, descriptor: number): LeaseHome {
  return {
    views: {
      open(_, offset, byteLength, user) {
        // Copy-on-write: a store here is seen by nobody else, and the sealed memory changes for nobody.
        const buffer = keepNewInThread(addon.mapPrivate(descriptor, offset, byteLength));
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
    release: () => undefined,
  };
}

function copyOf(descriptor: number, offset: number, byteLength: number): Uint8Array {
  const copy = memoryToFill(byteLength);
  for (let at = 0; at < byteLength; ) {
    const bytesRead = readSync(descriptor, copy, at, Math.min(byteLength - at, READ_BYTES_MAX), offset + at);
    if (bytesRead === 0) throw new Violation("SPAN-5", "a region ends before its size");
    at += bytesRead;
  }
  return copy;
}
