/**
 * The shared-memory carrier: one connection's two directions. Ties rings, arenas, releases and sleep words together,
 * and is what the poller serves.
 *
 * SHM-1  The inline part of a frame is copied to private scratch memory before anything looks at it (`FrameReader`).
 *        The read cursor advances before user code runs.
 * SHM-2  A drain never waits for space, so two sides that only send cannot deadlock.
 * SHM-3  The work of one step is bounded (`FrameReader.take`), so POLL-1 holds with large payloads too.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { CpuHint } from "../../memory/shm/cpu-hint.js";
import { AWAIT, Bell, Sleeper } from "../../memory/shm/doorbell.js";
import { RING_DATA_OFFSET } from "../../memory/shm/layout.js";
import { RingReader, RingWriter } from "../../memory/shm/ring.js";
import type { ConnectionMemory } from "../../memory/shm/segment.js";
import { Violation } from "../../memory/shm/violation.js";
import type { WordAccess } from "../../memory/shm/words.js";
import { Receiving } from "../../memory/receive/receiving.js";
import {
  BLOCK_REFERENCE_BYTES,
  FLAG,
  FRAME_BYTES_MAX,
  KIND,
  readUint32,
  SPANS_MAX,
  writeUint32,
} from "../../wire/frame.js";
import type { Parts } from "../../wire/parts.js";
import type { Carrier, CarrierClosed, CarrierStats, FrameReceiver, ReceivedFrame } from "../carrier.js";
import { closedBy, FRAGMENT_WAITS } from "../carrier.js";
import type { Trust } from "../trust.js";
import { IdleStrategy } from "../poll/idle-strategy.js";
import type { Driver, Pollable } from "../poll/poller.js";
import { poller } from "../poll/poller.js";
import { Blocks } from "./blocks.js";
import type { DoorbellLine, DoorbellListener } from "./doorbell-line.js";
import { FrameReader } from "./frame-reader.js";
import { LoanQueue } from "./loan-queue.js";
import { OwnFrames } from "./own-frames.js";
import { ReceivedSpans } from "./received-spans.js";
import { RegionExchange } from "./region-exchange.js";
import { StarvationWatch, StarvedPeer, Trimming } from "./upkeep.js";

/**
 * Bytes of a large message that go into one block: large enough to copy at full speed, small enough to stay in the
 * caches.
 */
const FRAGMENT_BYTES_MAX = 128 << 10;
/** How long to wait after a ring for which the kernel had no memory. */
const RING_AGAIN_MS = 1;
/** Wake-ups in a row without a frame before the connection ends. BELL-2 bounds single wake-ups, this bounds their sum. */
const FRUITLESS_WAKES_MAX = 10_000;

export interface ShmCarrierOptions {
  readonly memory: ConnectionMemory;
  readonly trust: Trust;
  readonly line: DoorbellLine;
  readonly pollMicros: number;
  /** Whether large values may stay where they are, instead of travelling in fragments. */
  readonly spans: boolean;
  /** How shared words are read and written; `Atomics` by default. */
  readonly words?: WordAccess;
  /** Calls `step` and puts this side to sleep; the poller of this event loop by default. */
  readonly driver?: Driver;
}

export class ShmCarrier implements Carrier, Pollable, DoorbellListener {
  readonly name = "shm";
  readonly reason = undefined;
  readonly trust: Trust;
  /** The peer keeps its mapping of what was published. */
  readonly idle = true;
  readonly ringBytes: Uint8Array;
  readonly ringWords: Int32Array;
  readonly fragmentBytesMax: number;
  readonly borrowedEndBytesMax: number;
  readonly fragmentFlag = FLAG.inBlock;
  awake = false;
  yielded = false;
  idleTurns = 0;
  closed = false;
  readonly idleStrategy: IdleStrategy;
  readonly blocks: Blocks | undefined;
  readonly receiving = new Receiving();
  readonly spanSource: ReceivedSpans;

  private readonly driver: Driver;
  private readonly memory: ConnectionMemory;
  private readonly line: DoorbellLine;
  private receiver: FrameReceiver | undefined;
  private readonly writer: RingWriter;
  private readonly reader: RingReader;
  /** The same as `blocks`, which is undefined if large values travel in fragments. */
  private readonly memoryBlocks: Blocks;
  private readonly loans: LoanQueue;
  private readonly regions: RegionExchange;
  private readonly ownFrames: OwnFrames;
  private readonly starvation: StarvationWatch;
  private readonly starvedPeer: StarvedPeer;
  private readonly trimming: Trimming;
  private readonly sleeper: Sleeper;
  private readonly bell: Bell;
  private readonly cpuHint: CpuHint;
  /** What the send queue waits for. */
  private sendQueueAwaits: number = AWAIT.frames;
  private awaiting: number = AWAIT.frames;
  /** Something that the send queue waited for, other than space and blocks, has come. */
  private mayGoOn = false;
  private servesPeer = false;
  private kept = false;
  private lineKept = false;
  private readonly frameReader: FrameReader;
  private ringsTaken = 0;
  private fruitlessWakes = 0;
  /** Frames that came and, as far as their number tells, were not answered yet. */
  private unanswered = 0;
  private framesSent = 0;
  private framesReceived = 0;
  private rung = 0;

  constructor({ memory, trust, line, pollMicros, spans, words = Atomics, driver = poller }: ShmCarrierOptions) {
    const { ownRing, peerRing, ownArena, ownGeometry, peerGeometry } = memory;
    this.driver = driver;
    this.memory = memory;
    this.trust = trust;
    this.line = line;
    this.idleStrategy = new IdleStrategy(pollMicros);
    this.ringBytes = new Uint8Array(ownRing, RING_DATA_OFFSET);
    this.ringWords = new Int32Array(ownRing, RING_DATA_OFFSET);
    // A small arena still holds several fragments at once.
    this.fragmentBytesMax = Math.min(FRAGMENT_BYTES_MAX, Math.floor(ownArena.byteLength / 4));
    // Every fragment is a copy.
    this.borrowedEndBytesMax = this.fragmentBytesMax;
    const own = new Int32Array(ownRing, 0, RING_DATA_OFFSET / 4);
    const peer = new Int32Array(peerRing, 0, RING_DATA_OFFSET / 4);
    this.writer = new RingWriter(own, peer, ownGeometry.ringBytes, words);
    this.reader = new RingReader(own, peer, peerGeometry.ringBytes, words);
    this.sleeper = new Sleeper(own, words);
    this.bell = new Bell(peer, words);
    this.cpuHint = new CpuHint(own, peer, words);
    const schedule = () => this.driver.schedule(this);
    const port = {
      onRoom: schedule,
      // SYNC release.publish, bell.park
      onReleased: () => {
        if (this.bell.mustRing(AWAIT.blocks)) this.ring();
      },
      sendRelease: (unit: number, generation: number) => {
        this.ownFrames.release(unit, generation);
        this.driver.schedule(this);
      },
    };
    const blocks = new Blocks(memory, port, words);
    this.memoryBlocks = blocks;
    this.loans = new LoanQueue(blocks, schedule);
    this.regions = new RegionExchange(line, driver, schedule);
    blocks.regions = this.regions;
    this.blocks = spans ? blocks : undefined;
    this.frameReader = new FrameReader(peerRing, memory.peerArena, spans);
    this.spanSource = new ReceivedSpans({
      frame: this.frameReader.frame,
      blocks,
      regions: this.regions,
      receiving: this.receiving,
      leasable: memory.leasable,
    });
    this.ownFrames = new OwnFrames(this, this.regions);
    const awaitsBlocks = () => !this.closed && (this.awaiting & AWAIT.blocks) !== 0;
    this.starvation = new StarvationWatch(driver, blocks, awaitsBlocks, () => {
      this.ownFrames.sayStarved();
      this.driver.schedule(this);
    });
    this.starvedPeer = new StarvedPeer(blocks);
    this.trimming = new Trimming(driver, blocks, (error) => this.close(closedBy(error)));
    memory.budget.onPressure = () => {
      if (!this.closed) this.trimming.trimNow();
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
    this.driver.wrote(this);
  }

  publish(): void {
    if (this.writer.publish() && this.bell.mustRing(AWAIT.frames)) this.ring();
  }

  /**
   * SUBTLE: rings before the store that the peer is to see. The peer looks for work after it woke, so it sees that
   * store, or its next sleep is rung (BELL-1).
   */
  prewake(): void {
    if (!this.closed && this.bell.mustRing(AWAIT.frames)) this.ring();
  }

  flush(): void {
    if (!this.closed) this.publish();
  }

  placeFragment(source: Parts, byteLength: number, at: number): number {
    const unit = this.guarded(() => this.memoryBlocks.placeFragment(source, byteLength));
    if (unit === undefined) return FRAGMENT_WAITS;
    if (unit < 0) return unit;
    writeUint32(this.ringBytes, at, unit);
    writeUint32(this.ringBytes, at + 4, this.memoryBlocks.generationOf(unit));
    return BLOCK_REFERENCE_BYTES;
  }

  /** Fragments are copied when they are placed: nothing is borrowed. */
  hurry(): void {}
  keep(): void {}

  loan(byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array> {
    const loan = this.guarded(() => this.loans.take(byteLength, makeSignal, () => this.declareWait()));
    return loan ?? Promise.reject(new ConnectError("the connection is over", Code.Unavailable));
  }

  /**
   * For functions that users call: a violation that shows here ends the connection instead of reaching the user.
   * Undefined if the connection is over, or ended by that.
   */
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

  setWaitFor(space: boolean, blocks: boolean): void {
    if (this.closed) return;
    this.sendQueueAwaits = AWAIT.frames | (space ? AWAIT.space : 0) | (blocks ? AWAIT.blocks : 0);
    this.declareWait();
  }

  requestPump(): void {
    this.mayGoOn = true;
    if (!this.closed) this.driver.schedule(this);
  }

  private declareWait(): void {
    const forOwnFrames = this.ownFrames.arePending ? AWAIT.space : 0;
    const awaiting = this.sendQueueAwaits | forOwnFrames | (this.loans.size > 0 ? AWAIT.blocks : 0);
    if ((awaiting & AWAIT.blocks) !== 0) this.starvation.start();
    const more = (awaiting & ~this.awaiting) !== 0;
    this.awaiting = awaiting;
    // If this side sleeps, it has published what it waited for before. The poller parks it again with the new answer.
    if (more) this.driver.schedule(this);
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
      if (this.ownFrames.arePending && !this.closed) this.sendOwnFrames();
      if (!this.closed) this.publish();
      return found;
    } catch (error) {
      this.close(closedBy(error));
      return true;
    }
  }

  private useRoom(): boolean {
    const served = this.loans.size > 0 && this.loans.serve();
    const pumped = (this.mayGoOn || this.sendQueueAwaits !== AWAIT.frames) && this.pump();
    this.declareWait();
    return served || pumped;
  }

  private pump(): boolean {
    this.mayGoOn = false;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `start` comes before any frame
    return this.receiver!.onRoom();
  }

  private sendOwnFrames(): void {
    this.ownFrames.send();
    if (!this.closed) this.declareWait();
  }

  get expecting(): boolean {
    return this.kept || this.servesPeer;
  }

  hasWork(): boolean {
    return (
      !this.closed && (this.mayGoOn || this.reader.hasFrames() || (this.awaiting !== AWAIT.frames && this.hasRoom()))
    );
  }

  private hasRoom(): boolean {
    if ((this.awaiting & AWAIT.space) !== 0 && this.writer.headMoved()) return true;
    return (this.awaiting & AWAIT.blocks) !== 0 && this.memoryBlocks.hasReleases();
  }

  get settled(): boolean {
    return this.unanswered === 0;
  }

  tryPark(): boolean {
    if (this.closed) return true;
    // A handler that has not answered by now takes longer, or answers nothing.
    this.unanswered = 0;
    this.tellLine();
    this.sleeper.park(this.awaiting);
    // SYNC bell.park: look again after the sleep word was stored (BELL-1).
    if (this.hasWork() || this.writer.hasUnpublished) {
      this.sleeper.wake();
      return false;
    }
    this.trimming.start();
    return true;
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

  /** Where in the ring the next frame goes. */
  get position(): number {
    return this.writer.position;
  }

  /** Whether the peer has taken the frame that went to a position. */
  wasTaken(position: number): boolean {
    return this.writer.wasTaken(position);
  }

  runsOn(cpu: number): void {
    if (!this.closed) this.cpuHint.publish(cpu);
  }

  sharesCore(): boolean {
    return !this.closed && this.cpuHint.sharesCore();
  }

  // What the line calls.

  onDoorbell(rings: number): void {
    if (this.closed) return;
    this.ringsTaken += rings;
    if (this.ringsTaken > this.sleeper.sleeps) {
      this.close(closedBy(new Violation("BELL-2", `rung ${this.ringsTaken} times in ${this.sleeper.sleeps} sleeps`)));
    } else if (++this.fruitlessWakes > FRUITLESS_WAKES_MAX) {
      this.close(closedBy(new Violation("BELL-4", `woken ${this.fruitlessWakes} times in a row without a frame`)));
    } else {
      this.driver.rang(this);
    }
  }

  takesDescriptors(): boolean {
    if (this.closed || !this.regions.isCrowded) return true;
    if (this.reader.hasFrames()) {
      this.driver.schedule(this);
      return false;
    }
    this.close(closedBy(new Violation("SPAN-6", `more than ${SPANS_MAX} descriptors that no frame names`)));
    return true;
  }

  onDescriptors(descriptors: readonly number[]): void {
    this.regions.arrived(descriptors);
    if (descriptors.length > 0 && this.blocks === undefined)
      this.close(closedBy(new Violation("BELL-5", "a descriptor came, which was not agreed on")));
  }

  get arrivals(): number {
    return this.regions.arrivals;
  }

  /**
   * Delivers the answers that the peer had published before it went, then closes. Requests of a dead peer are
   * discarded.
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

  /** Delivers the frame at `at` of the scratch memory, and returns where the next one is. */
  private deliver(at: number): number {
    const next = this.frameReader.open(at);
    const { frame, unit, generation } = this.frameReader;
    const { spanCount } = frame;
    this.framesReceived++;
    if (frame.kind === KIND.release) this.onReleaseFrame(frame);
    else if (frame.kind === KIND.starved) this.starvedPeer.onStarved();
    else if (frame.kind === KIND.dropRegion) this.regions.discard(frame.argument);
    else {
      this.unanswered++;
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `start` comes before any frame
      this.receiver!.onFrame(frame);
    }
    if (this.closed) return next;
    // The receiver has copied the fragment, so its block can be released at once.
    if (unit !== 0) this.memoryBlocks.releaseToPeer(unit, generation);
    if (spanCount > 0) this.spanSource.discardRest(spanCount);
    return next;
  }

  /** @throws Violation */
  private onReleaseFrame({ scratch, metadataOffset, metadataLength }: ReceivedFrame): void {
    if (metadataLength !== BLOCK_REFERENCE_BYTES)
      throw new Violation("FRAME-7", `a release of ${metadataLength} bytes`);
    this.memoryBlocks.released(readUint32(scratch, metadataOffset), readUint32(scratch, metadataOffset + 4));
    if (this.awaiting !== AWAIT.frames) this.driver.schedule(this);
  }

  // Life.

  private ring(): void {
    this.rung++;
    // BELL-1 holds only if the ring arrives. If the kernel had no memory for it, it is repeated.
    if (!this.line.ring()) this.driver.after(RING_AGAIN_MS, () => !this.closed && this.ring());
  }

  keepAlive(on: boolean): void {
    this.kept = on;
    // While this side is awake the poller keeps the event loop turning; the line is told when the connection parks.
    if (!this.awake && !this.closed) this.tellLine();
  }

  private tellLine(): void {
    if (this.kept === this.lineKept) return;
    this.lineKept = this.kept;
    this.line.keepAlive(this.kept);
  }

  failSoon(detail: string): void {
    this.driver.after(0, () => this.close({ cause: "failure", detail }));
  }

  close(reason: CarrierClosed): void {
    if (this.closed) return;
    this.closed = true;
    this.driver.remove(this);
    this.trimming.stop();
    this.starvation.stop();
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
