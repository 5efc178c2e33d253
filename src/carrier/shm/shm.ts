/**
 * The shared-memory carrier: one connection's two directions. Ties rings, arenas, releases and sleep words together,
 * and is what the poller serves.
 *
 * SHM-1  The inline part of a frame is copied to private scratch before anything looks at it (`FrameReader`); the read
 *        cursor advances before user code runs.
 * SHM-2  A drain never waits for space, so two sides that only send cannot deadlock.
 * SHM-3  The work of one step is bounded (`FrameReader.take`), so POLL-1 holds with large payloads too.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { COMMIT_STEP_BYTES } from "../../memory/shared/arena.js";
import { collectSoon } from "../../memory/v8/gc.js";
import { CpuHint } from "../../memory/shared/cpu-hint.js";
import { AWAIT, Bell, Sleeper } from "../../memory/shared/doorbell.js";
import { RING_DATA_OFFSET } from "../../memory/shared/layout.js";
import type { LeaseHandle, LeaseLifetime } from "../../memory/payload/lease.js";
import { RingReader, RingWriter } from "../../memory/shared/ring.js";
import type { ConnectionMemory } from "../../memory/shared/segment.js";
import { Receiving } from "../../memory/receive/receiving.js";
import { Violation } from "../../memory/shared/violation.js";
import type { WordAccess } from "../../memory/shared/words.js";
import { setImmediate } from "../../os/timers.js";
import {
  BLOCK_REFERENCE_BYTES,
  FIELD,
  FLAG,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  KIND,
  packKindFlagsCode,
  readUint32,
  SPAN,
  SPANS_MAX,
  writeUint32,
} from "../../wire/frame.js";
import type { Parts } from "../../wire/parts.js";
import { Blocks } from "./blocks.js";
import { closedBy } from "../carrier.js";
import type { Carrier, CarrierClosed, CarrierStats, FrameReceiver, ReceivedFrame, SpanSource } from "../carrier.js";
import { FrameReader } from "./frame-reader.js";
import { LoanQueue } from "./loan-queue.js";
import { IdleStrategy } from "../poll/idle-strategy.js";
import type { Delayed, Driver, Pollable } from "../poll/poller.js";
import { poller } from "../poll/poller.js";
import type { DescriptorLine } from "./region-exchange.js";
import { RegionExchange } from "./region-exchange.js";

/** The way to wake the peer and to hear from it; the control socket in production. */
export interface DoorbellLine extends DescriptorLine {
  /** Wakes the peer; never blocks, never throws. False: it could not be done now and must be tried again. */
  ring(): boolean;
  /** Whether the line keeps the event loop alive; it does not at first. */
  keepAlive(on: boolean): void;
  close(): void;
}

/** How long to wait for blocks before the peer is told, at first; then twice as long each time. */
const STARVED_AFTER_MS = 10;
const STARVED_AGAIN_MS_MAX = 1000;
/**
 * Bytes of a large message that go into one block: large enough to copy at full speed, small enough to stay in the
 * caches.
 */
const FRAGMENT_BYTES_MAX = 128 << 10;
/** An arena that nobody used for this long gives its memory back. */
const TRIM_AFTER_MS = 10_000;
/** After a ring for which the kernel had no memory. */
const RING_AGAIN_MS = 1;
/** Wake-ups in a row without a frame before the peer is told off (BELL-2 bounds them one by one, this in all). */
const FRUITLESS_WAKES_MAX = 10_000;

export class ShmCarrier implements Carrier, Pollable {
  readonly name = "shm";
  readonly reason = undefined;
  /** The peer keeps its mapping of what was published. */
  readonly idle = true;
  readonly ringBytes: Uint8Array;
  readonly ringWords: Int32Array;
  readonly fragmentBytesMax: number;
  readonly fragmentFlag = FLAG.inBlock;
  awake = false;
  yielded = false;
  idleTurns = 0;
  closed = false;
  readonly idleStrategy: IdleStrategy;

  private readonly driver: Driver;
  private readonly memory: ConnectionMemory;
  private readonly line: DoorbellLine;
  private receiver: FrameReceiver | undefined;
  private readonly writer: RingWriter;
  private readonly reader: RingReader;
  readonly blocks: Blocks | undefined;
  private readonly memoryBlocks: Blocks;
  private readonly loans: LoanQueue;
  private readonly regions: RegionExchange;
  readonly spanSource: SpanSource;
  /** Releases that have to follow frames on their way, as unit and generation. */
  private readonly orderedReleases: number[] = [];
  private readonly sleeper: Sleeper;
  private readonly bell: Bell;
  private readonly cpuHint: CpuHint;
  /** What the sendQueue waits for. */
  private outboxAwaits: number = AWAIT.frames;
  private awaiting: number = AWAIT.frames;
  /** What the sendQueue waited for besides has come. */
  private mayGoOn = false;
  private servesPeer = false;
  private kept = false;
  private lineKept = false;
  private readonly frameReader: FrameReader;
  /** Of the frame that is being delivered: which spans the receiver took. */
  private readonly spansTaken = new Uint8Array(SPANS_MAX);
  private starvation: Delayed | undefined;
  private saysStarved = false;
  private trimTimer: Delayed | undefined;
  private ringsTaken = 0;
  private fruitlessWakes = 0;
  /** Frames that came and, as far as one can tell from their number, were not answered yet. */
  private unanswered = 0;
  private framesSent = 0;
  private framesReceived = 0;
  private rung = 0;

  /**
   * @param spans whether large values may stay where they are, instead of travelling in fragments
   * @param driver who calls `step` and puts this side to sleep
   */
  constructor(
    memory: ConnectionMemory,
    line: DoorbellLine,
    pollMicros: number,
    spans: boolean,
    words: WordAccess = Atomics,
    driver: Driver = poller,
  ) {
    const { ownRing, peerRing, ownArena, ownGeometry, peerGeometry } = memory;
    this.driver = driver;
    this.memory = memory;
    this.line = line;
    this.idleStrategy = new IdleStrategy(pollMicros);
    this.ringBytes = new Uint8Array(ownRing, RING_DATA_OFFSET);
    this.ringWords = new Int32Array(ownRing, RING_DATA_OFFSET);
    // A small arena still holds several fragments at once.
    this.fragmentBytesMax = Math.min(FRAGMENT_BYTES_MAX, Math.floor(ownArena.byteLength / 4));
    const own = new Int32Array(ownRing, 0, RING_DATA_OFFSET / 4);
    const peer = new Int32Array(peerRing, 0, RING_DATA_OFFSET / 4);
    this.writer = new RingWriter(own, peer, ownGeometry.ringBytes, words);
    this.reader = new RingReader(own, peer, peerGeometry.ringBytes, words);
    this.sleeper = new Sleeper(own, words);
    this.bell = new Bell(peer, words);
    this.cpuHint = new CpuHint(own, peer, words);
    const port = {
      onRoom: () => this.driver.schedule(this),
      // SYNC release.publish, bell.park
      onReleased: () => {
        if (this.bell.mustRing(AWAIT.blocks)) this.ring();
      },
      sendRelease: (unit: number, generation: number) => {
        this.orderedReleases.push(unit, generation);
        this.driver.schedule(this);
      },
    };
    this.memoryBlocks = new Blocks(memory, port, words);
    this.loans = new LoanQueue(this.memoryBlocks, () => this.driver.schedule(this));
    this.regions = new RegionExchange(line, driver, () => this.driver.schedule(this));
    this.memoryBlocks.regions = this.regions;
    this.blocks = spans ? this.memoryBlocks : undefined;
    this.frameReader = new FrameReader(peerRing, memory.peerArena, spans);
    this.spanSource = {
      receiving: new Receiving(),
      takeSpan: (index, lifetime, callLabel, handles) => this.takeSpan(index, lifetime, callLabel, handles),
    };
  }

  start(receiver: FrameReceiver, servesPeer: boolean): void {
    this.receiver = receiver;
    this.servesPeer = servesPeer;
    this.driver.schedule(this);
  }

  // Sending.

  get index(): number {
    return this.writer.index;
  }

  freeBytes(): number {
    if (this.closed) return 0;
    try {
      return this.writer.free(FRAME_BYTES_MAX);
    } catch (error) {
      this.close(closedBy(error));
      return 0;
    }
  }

  commit(byteLength: number): void {
    this.writer.commit(byteLength);
    this.framesSent++;
    if (this.unanswered > 0) this.unanswered--;
    this.driver.schedule(this);
  }

  publish(): void {
    if (this.writer.publish() && this.bell.mustRing(AWAIT.frames)) this.ring();
  }

  /**
   * SUBTLE: rings before the store that the peer is to see. It looks for work after it woke, so it sees that, or its
   * next sleep is rung (BELL-1).
   */
  prewake(): void {
    if (!this.closed && this.bell.mustRing(AWAIT.frames)) this.ring();
  }

  flush(): void {
    if (!this.closed) this.publish();
  }

  placeFragment(source: Parts, byteLength: number, at: number): number {
    const unit = this.guarded(() => this.memoryBlocks.placeFragment(source, byteLength));
    if (unit === undefined) return -1;
    if (unit < 0) return unit;
    writeUint32(this.ringBytes, at, unit);
    writeUint32(this.ringBytes, at + 4, this.memoryBlocks.arena.generationOf(unit));
    return BLOCK_REFERENCE_BYTES;
  }

  /** Pieces are copied when they are placed: nothing is borrowed. */
  hurry(): void {}
  keep(): void {}

  loan(byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array> {
    const loan = this.guarded(() => this.loans.take(byteLength, makeSignal, () => this.sayAwaited()));
    return loan ?? Promise.reject(new ConnectError("the connection is over", Code.Unavailable));
  }

  /** For what the user calls: a violation that it comes upon ends the connection. Undefined then, or if it is over. */
  private guarded<T>(act: () => T): T | undefined {
    if (this.closed) return undefined;
    try {
      return act();
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      this.close(closedBy(error));
      return undefined;
    }
  }

  get exhausted(): string | undefined {
    return this.memoryBlocks.arena.exhausted;
  }

  setWaitFor(space: boolean, blocks: boolean): void {
    if (this.closed) return;
    this.outboxAwaits = AWAIT.frames | (space ? AWAIT.space : 0) | (blocks ? AWAIT.blocks : 0);
    this.sayAwaited();
  }

  requestPump(): void {
    this.mayGoOn = true;
    if (!this.closed) this.driver.schedule(this);
  }

  private sayAwaited(): void {
    const releases = this.hasOwnFrames ? AWAIT.space : 0;
    const awaiting = this.outboxAwaits | releases | (this.loans.size > 0 ? AWAIT.blocks : 0);
    if ((awaiting & AWAIT.blocks) !== 0 && this.starvation === undefined) this.watchStarvation(STARVED_AFTER_MS);
    const more = (awaiting & ~this.awaiting) !== 0;
    this.awaiting = awaiting;
    // Asleep, we said what we await; the poller parks again with the new answer.
    if (more) this.driver.schedule(this);
  }

  /** Garbage may hold what this side waits for: then it is collected here, and the peer is told. */
  private watchStarvation(delayMs: number): void {
    const { releases } = this.memoryBlocks;
    this.starvation = this.driver.after(delayMs, () => {
      this.starvation = undefined;
      if (this.closed || (this.awaiting & AWAIT.blocks) === 0) return;
      const isStarving = releases === this.memoryBlocks.releases;
      if (isStarving) {
        if (this.memoryBlocks.holdsOwn) collectSoon();
        this.saysStarved = true;
        this.driver.schedule(this);
      }
      this.watchStarvation(isStarving ? Math.min(delayMs * 2, STARVED_AGAIN_MS_MAX) : STARVED_AFTER_MS);
    });
  }

  // What the poller calls.

  step(): boolean {
    if (this.closed) return false;
    try {
      let found = this.writer.hasUnpublished;
      if (found) this.publish();
      if (this.memoryBlocks.arena.outstanding > 0) this.memoryBlocks.collectReleases();
      if (this.drain() > 0) found = true;
      if (!this.closed && (this.mayGoOn || this.awaiting !== AWAIT.frames) && this.useRoom()) {
        this.fruitlessWakes = 0;
        found = true;
      }
      if (this.hasOwnFrames && !this.closed) this.sendOwnFrames();
      if (!this.closed) this.publish();
      return found;
    } catch (error) {
      this.close(closedBy(error));
      return true;
    }
  }

  private useRoom(): boolean {
    const served = this.loans.size > 0 && this.loans.serve();
    const pumped = (this.mayGoOn || this.outboxAwaits !== AWAIT.frames) && this.pump();
    this.sayAwaited();
    return served || pumped;
  }

  private pump(): boolean {
    this.mayGoOn = false;
    return this.receiver!.onRoom();
  }

  private get hasOwnFrames(): boolean {
    return this.saysStarved || this.orderedReleases.length > 0 || this.regions.dropped.length > 0;
  }

  /** SUBTLE: in a step and not at once: a lease may end while a message is being encoded at the ring's tail. */
  private sendOwnFrames(): void {
    let sent = 0;
    for (; sent < this.orderedReleases.length; sent += 2) {
      if (!this.writeOwnFrame(KIND.release, BLOCK_REFERENCE_BYTES)) break;
      const at = this.index + FRAME_HEADER_BYTES;
      writeUint32(this.ringBytes, at, this.orderedReleases[sent]);
      writeUint32(this.ringBytes, at + 4, this.orderedReleases[sent + 1]);
      this.commit(FRAME_HEADER_BYTES + BLOCK_REFERENCE_BYTES);
    }
    this.orderedReleases.splice(0, sent);
    this.sendDroppedRegions();
    if (this.saysStarved && this.writeOwnFrame(KIND.starved, 0)) {
      this.saysStarved = false;
      this.commit(FRAME_HEADER_BYTES);
    }
    if (!this.closed) this.sayAwaited();
  }

  private sendDroppedRegions(): void {
    const { dropped } = this.regions;
    if (dropped.length === 0) return;
    while (dropped.length > 0 && this.writeOwnFrame(KIND.dropRegion, 0)) {
      this.ringWords[(this.index >> 2) + FIELD.argument] = dropped.shift()!;
      this.commit(FRAME_HEADER_BYTES);
    }
    // Before the next descriptor, so that the peer can count (REGIONS-3).
    if (!this.closed) this.publish();
    if (dropped.length === 0) this.regions.droppedSent();
  }

  /** Writes the header of a frame of the connection itself, if there is room. */
  private writeOwnFrame(kind: number, metadataLength: number): boolean {
    const byteLength = FRAME_HEADER_BYTES + metadataLength;
    if (this.freeBytes() < byteLength) return false;
    const at = this.index >> 2;
    this.ringWords.fill(0, at, at + FRAME_HEADER_BYTES / 4);
    this.ringWords[at + FIELD.byteLength] = byteLength;
    this.ringWords[at + FIELD.kindFlagsCode] = packKindFlagsCode(kind, 0, 0);
    this.ringWords[at + FIELD.metadataLength] = metadataLength;
    return true;
  }

  get expecting(): boolean {
    return this.kept || this.servesPeer;
  }

  hasWork(): boolean {
    return (
      !this.closed && (this.mayGoOn || this.reader.hasFrames() || (this.awaiting !== AWAIT.frames && this.hasRoom()))
    );
  }

  get settled(): boolean {
    return this.unanswered === 0;
  }

  tryPark(): boolean {
    if (this.closed) return true;
    // Whoever has not answered by now takes longer, or answers nothing.
    this.unanswered = 0;
    this.tellLine();
    this.sleeper.park(this.awaiting);
    // SYNC bell.park: looked at after the sleep word was stored (BELL-1).
    if (this.hasWork() || this.writer.hasUnpublished) {
      this.sleeper.wake();
      return false;
    }
    if (this.memoryBlocks.arena.committedBytes > COMMIT_STEP_BYTES) this.trimLater();
    return true;
  }

  /** Gives the arena's memory back if it is not used for a while. */
  private trimLater(): void {
    if (this.trimTimer !== undefined) return;
    const { arena } = this.memoryBlocks;
    const { allocations } = arena;
    this.trimTimer = this.driver.after(TRIM_AFTER_MS, () => {
      this.trimTimer = undefined;
      if (this.closed) return;
      try {
        // The last blocks may have come back after this side went to sleep.
        this.memoryBlocks.collectReleases();
        if (arena.allocations === allocations) arena.trim();
        if (arena.committedBytes > COMMIT_STEP_BYTES) this.trimLater();
      } catch (error) {
        this.close(closedBy(error));
      }
    });
  }

  wake(): void {
    if (!this.closed) this.sleeper.wake();
  }

  /**
   * For a driver that does not let the event loop turn: what is done once per turn may be done again. True: `step` is
   * worth calling.
   */
  nextTurn(): boolean {
    if (this.closed || !this.memoryBlocks.arena.nextTurn()) return false;
    this.mayGoOn = true;
    return true;
  }

  /** Where in the ring the next frame goes, … */
  get position(): number {
    return this.writer.position;
  }

  /** … and whether the peer has taken the frame that went to a position. */
  wasTaken(position: number): boolean {
    return this.writer.wasTaken(position);
  }

  runsOn(cpu: number): void {
    if (!this.closed) this.cpuHint.publish(cpu);
  }

  sharesCore(): boolean {
    return !this.closed && this.cpuHint.sharesCore();
  }

  private hasRoom(): boolean {
    if ((this.awaiting & AWAIT.space) !== 0 && this.writer.headMoved()) return true;
    return (this.awaiting & AWAIT.blocks) !== 0 && this.memoryBlocks.hasReleases();
  }

  /** The doorbell rang `rings` times since the last call. */
  onDoorbell(rings: number): void {
    if (this.closed) return;
    this.ringsTaken += rings;
    if (this.ringsTaken > this.sleeper.sleeps) {
      this.close(closedBy(new Violation("BELL-2", `rung ${this.ringsTaken} times in ${this.sleeper.sleeps} sleeps`)));
    } else if (++this.fruitlessWakes > FRUITLESS_WAKES_MAX) {
      this.close(closedBy(new Violation("BELL-4", `woken ${this.fruitlessWakes} times in a row without a frame`)));
    } else {
      this.driver.schedule(this, true);
    }
  }

  /** Whether the socket may be read, which can bring descriptors; if not, frames have to be delivered before. */
  takesDescriptors(): boolean {
    if (this.closed || !this.regions.isCrowded) return true;
    if (this.reader.hasFrames()) {
      this.driver.schedule(this);
      return false;
    }
    this.close(closedBy(new Violation("SPAN-6", `more than ${SPANS_MAX} descriptors that no frame names`)));
    return true;
  }

  /** Descriptors came over the line; they belong to this carrier from now on. */
  onDescriptors(descriptors: readonly number[]): void {
    this.regions.arrived(descriptors);
    if (descriptors.length > 0 && this.blocks === undefined)
      this.close(closedBy(new Violation("BELL-5", "a descriptor came, which was not agreed on")));
  }

  /** Descriptors that came so far. */
  get arrivals(): number {
    return this.regions.arrivals;
  }

  /**
   * The peer is gone: delivers the answers that it had published before it went, then closes. Requests of the dead
   * nobody needs.
   */
  onHangup(): void {
    if (this.closed) return;
    try {
      // Looked at once: a peer that only pretends to be gone could publish for ever.
      let left = this.servesPeer ? 0 : this.reader.available();
      while (left > 0 && !this.closed) left -= this.drain();
      this.close({ cause: "hangup", detail: "the peer closed the connection or died" });
    } catch (error) {
      this.close(closedBy(error));
    }
  }

  // Receiving.

  /** Takes what is in the ring, up to a bounded amount of work; returns the bytes of frames taken. */
  private drain(): number {
    const available = this.reader.available();
    if (available === 0) return 0;
    this.fruitlessWakes = 0;
    const taken = this.frameReader.take(this.reader.index, available, this.cpuHint.sharesCore());
    this.reader.consume(taken);
    this.reader.publishHead();
    // SYNC ring.consume, bell.park
    if (this.bell.mustRing(AWAIT.space)) this.ring();
    for (let at = 0; at < taken && !this.closed; ) at = this.deliver(at);
    return taken;
  }

  /** Hands on the frame at `at`, and returns where the next one is. */
  private deliver(at: number): number {
    const next = this.frameReader.open(at);
    const { frame, unit, generation } = this.frameReader;
    const { spanCount } = frame;
    this.framesReceived++;
    if (frame.kind === KIND.release) this.onReleaseFrame(frame);
    else if (frame.kind === KIND.starved) this.onStarved();
    else if (frame.kind === KIND.dropRegion) this.regions.discard(frame.argument);
    else {
      this.unanswered++;
      this.receiver!.onFrame(frame);
    }
    if (this.closed) return next;
    // The receiver has copied what lies in a block, so it can go back at once.
    if (unit !== 0) this.memoryBlocks.releaseToPeer(unit, generation);
    if (spanCount > 0) this.discardSpans(frame, spanCount);
    return next;
  }

  private takeSpan(index: number, lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): Uint8Array {
    const entry = this.frameReader.frame.spans[index];
    const bytes =
      (entry.flags & SPAN.region) === 0
        ? this.memoryBlocks.take(entry, lifetime, callLabel, handles)
        : this.regions.take(
            entry,
            lifetime,
            callLabel,
            handles,
            (isLeased) => this.memoryBlocks.copies[isLeased ? "spansLeased" : "spansCopiedOut"]++,
          );
    this.spansTaken[index] = 1;
    return bytes;
  }

  /** What the receiver did not take goes back. */
  private discardSpans(frame: ReceivedFrame, spanCount: number): void {
    for (let i = 0; i < spanCount; i++) {
      const entry = frame.spans[i];
      if (this.spansTaken[i] === 0) {
        if ((entry.flags & SPAN.region) === 0) this.memoryBlocks.discard(entry);
        else this.regions.discard(entry.unit);
      }
      this.spansTaken[i] = 0;
    }
  }

  /** @throws Violation */
  private onReleaseFrame({ scratch, metadataOffset, metadataLength }: ReceivedFrame): void {
    if (metadataLength !== BLOCK_REFERENCE_BYTES)
      throw new Violation("FRAME-7", `a release of ${metadataLength} bytes`);
    this.memoryBlocks.released(readUint32(scratch, metadataOffset), readUint32(scratch, metadataOffset + 4));
    if (this.awaiting !== AWAIT.frames) this.driver.schedule(this);
  }

  private onStarved(): void {
    // Not here: it takes long, and other frames wait.
    if (this.memoryBlocks.holdsPeers) setImmediate(collectSoon);
  }

  // Life.

  private ring(): void {
    this.rung++;
    // BELL-1 holds only if the ring arrives: what the kernel had no memory for is rung again.
    if (!this.line.ring()) this.driver.after(RING_AGAIN_MS, () => !this.closed && this.ring());
  }

  keepAlive(on: boolean): void {
    this.kept = on;
    // While awake the poller keeps the loop turning; the line is told when the connection parks.
    if (!this.awake && !this.closed) this.tellLine();
  }

  private tellLine(): void {
    if (this.kept === this.lineKept) return;
    this.lineKept = this.kept;
    this.line.keepAlive(this.kept);
  }

  /** Ends the connection in a later turn: for what fails while a message is being written. */
  failSoon(detail: string): void {
    this.driver.after(0, () => this.close({ cause: "failure", detail }));
  }

  close(reason: CarrierClosed): void {
    if (this.closed) return;
    this.closed = true;
    this.driver.remove(this);
    this.trimTimer?.cancel();
    this.starvation?.cancel();
    this.line.close();
    this.regions.close();
    this.memoryBlocks.close();
    this.memory.close();
    this.loans.rejectAll(new ConnectError(`connection lost: ${reason.detail}`, Code.Unavailable));
    this.receiver?.onClosed(reason);
  }

  stats(): CarrierStats {
    return {
      ringBytes: this.writer.capacity,
      ...this.memoryBlocks.stats(),
      unsentBytes: 0,
      framesSent: this.framesSent,
      framesReceived: this.framesReceived,
      doorbellsRung: this.rung,
      doorbellsReceived: this.ringsTaken,
      sleeps: this.sleeper.sleeps,
    };
  }
}
