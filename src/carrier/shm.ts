/**
 * The shared-memory carrier: one connection's two directions. Ties rings, arenas, releases and sleep words together, and
 * is what the poller serves.
 *
 * SHM-1  The inline part of a frame is copied to private scratch before anything looks at it (`Intake`); the read cursor
 *        advances before user code runs.
 * SHM-2  A drain never waits for space, so two sides that only send cannot deadlock.
 * SHM-3  The work of one step is bounded (`Intake.take`), so POLL-1 holds with large payloads too.
 */
import { Arena, COMMIT_STEP_BYTES } from "../memory/arena.js";
import { CpuHint } from "../memory/cpu-hint.js";
import { AWAIT, Bell, Sleeper } from "../memory/doorbell.js";
import { ARENA_UNIT_BYTES, RING_DATA_OFFSET } from "../memory/layout.js";
import { ReleaseReader, ReleaseWriter } from "../memory/releases.js";
import { RingReader, RingWriter } from "../memory/ring.js";
import type { ConnectionMemory } from "../memory/segment.js";
import { Violation } from "../memory/violation.js";
import type { WordAccess } from "../memory/words.js";
import { BLOCK_REFERENCE_BYTES, FLAG, FRAME_BYTES_MAX } from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import type { Carrier, CarrierClosed, CarrierStats, FrameReceiver } from "./carrier.js";
import { Intake } from "./intake.js";
import { Patience } from "./patience.js";
import type { Pollable } from "./poller.js";
import { poller } from "./poller.js";

/** The way to wake the peer and to hear from it; the control socket in production. */
export interface DoorbellLine {
  /** Wakes the peer; never blocks, never throws. False: it could not be done now and must be tried again. */
  ring(): boolean;
  /** Whether the line keeps the event loop alive; it does not at first. */
  keepAlive(on: boolean): void;
  close(): void;
}

/** Bytes of a large message that go into one block: large enough to copy at full speed, small enough to stay in the caches. */
const PIECE_BYTES_MAX = 128 << 10;
/**
 * Bytes of large messages that are in blocks at once: enough for one side to copy in while the other copies out, little
 * enough that a small message never waits long behind them.
 */
const IN_FLIGHT_BYTES_MAX = 2 << 20;
/** An arena that nobody used for this long gives its memory back. */
const TRIM_AFTER_MS = 10_000;
/** After a ring for which the kernel had no memory. */
const RING_AGAIN_MS = 1;
/** Wake-ups in a row without a frame before the peer is told off (BELL-2 bounds them one by one, this in all). */
const FRUITLESS_WAKES_MAX = 10_000;

export class ShmCarrier implements Carrier, Pollable {
  readonly name = "shm";
  /** The peer keeps its mapping of what was published. */
  readonly idle = true;
  readonly ringBytes: Uint8Array;
  readonly ringWords: Int32Array;
  readonly pieceBytesMax: number;
  readonly pieceFlag = FLAG.inBlock;
  awake = false;
  yielded = false;
  closed = false;
  readonly patience: Patience;

  /** As far as blocks were handed out. */
  private arenaBytes: Uint8Array;
  private readonly memory: ConnectionMemory;
  private readonly line: DoorbellLine;
  private receiver: FrameReceiver | undefined;
  private readonly writer: RingWriter;
  private readonly reader: RingReader;
  private readonly arena: Arena;
  private readonly releasesIn: ReleaseReader;
  private readonly releasesOut: ReleaseWriter;
  private readonly sleeper: Sleeper;
  private readonly bell: Bell;
  private readonly cpuHint: CpuHint;
  private readonly releaseSlots: number;
  private awaiting: number = AWAIT.frames;
  private servesPeer = false;
  private kept = false;
  private lineKept = false;
  private readonly onRelease = (unit: number, generation: number) => this.arena.release(unit, generation);
  private readonly intake: Intake;
  private trimTimer: NodeJS.Timeout | undefined;
  private ringsTaken = 0;
  private fruitlessWakes = 0;
  private framesSent = 0;
  private framesReceived = 0;
  private rung = 0;

  constructor(memory: ConnectionMemory, line: DoorbellLine, pollMicros: number, words: WordAccess = Atomics) {
    const { ownRing, peerRing, ownArena, ownGeometry, peerGeometry } = memory;
    this.memory = memory;
    this.line = line;
    this.patience = new Patience(pollMicros);
    this.ringBytes = new Uint8Array(ownRing, RING_DATA_OFFSET);
    this.ringWords = new Int32Array(ownRing, RING_DATA_OFFSET);
    this.arenaBytes = ownArena.upTo(0);
    // A small arena still holds several pieces at once.
    this.pieceBytesMax = Math.min(PIECE_BYTES_MAX, Math.floor(ownArena.byteLength / 4));
    const own = new Int32Array(ownRing, 0, RING_DATA_OFFSET / 4);
    const peer = new Int32Array(peerRing, 0, RING_DATA_OFFSET / 4);
    this.writer = new RingWriter(own, peer, ownGeometry.ringBytes, words);
    this.reader = new RingReader(own, peer, peerGeometry.ringBytes, words);
    this.releasesOut = new ReleaseWriter(own, ownGeometry.releaseSlots, words);
    this.releasesIn = new ReleaseReader(peer, peerGeometry.releaseSlots, words);
    this.releaseSlots = peerGeometry.releaseSlots;
    this.sleeper = new Sleeper(own, words);
    this.bell = new Bell(peer, words);
    this.cpuHint = new CpuHint(own, peer, words);
    this.arena = new Arena(memory.ownPages, memory.budget, () => poller.touch(this));
    this.intake = new Intake(peerRing, memory.peerArena);
  }

  start(receiver: FrameReceiver, servesPeer: boolean): void {
    this.receiver = receiver;
    this.servesPeer = servesPeer;
    poller.touch(this);
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
    poller.touch(this);
  }

  publish(): void {
    if (this.writer.publish() && this.bell.mustRing(AWAIT.frames)) this.ring();
  }

  flush(): void {
    if (!this.closed) this.publish();
  }

  placePiece(source: Parts, byteLength: number, at: number): number {
    const unit = this.arena.outstandingBytes + byteLength > IN_FLIGHT_BYTES_MAX ? -1 : this.allocate(byteLength);
    if (unit < 0) return -1;
    source.copyTo(this.arenaBytes, unit * ARENA_UNIT_BYTES, byteLength);
    writeUint32(this.ringBytes, at, unit);
    writeUint32(this.ringBytes, at + 4, this.arena.generationOf(unit));
    return BLOCK_REFERENCE_BYTES;
  }

  /** A block of `byteLength` bytes: its unit, or −1 when there is none at the moment. */
  private allocate(byteLength: number): number {
    if (this.closed) return -1;
    try {
      if (this.arena.outstanding > 0) this.collectReleases();
    } catch (error) {
      this.close(closedBy(error));
      return -1;
    }
    // RELEASE-1: never more blocks out than the peer has slots to release them.
    if (this.arena.outstanding >= this.releaseSlots) return -1;
    let unit = this.arena.allocate(byteLength);
    if (unit < 0 && this.arena.grow()) unit = this.arena.allocate(byteLength);
    if (unit < 0) return unit;
    try {
      this.arenaBytes = this.memory.ownArena.upTo(unit * ARENA_UNIT_BYTES + byteLength);
      return unit;
    } catch (error) {
      // No address space or no mapping left: like no memory.
      this.arena.abandon(unit, error);
      return -1;
    }
  }

  private collectReleases(): void {
    if (this.releasesIn.hasReleases()) this.releasesIn.collect(this.onRelease);
  }

  get exhausted(): string | undefined {
    return this.arena.exhausted;
  }

  await(space: boolean, blocks: boolean): void {
    if (this.closed) return;
    const awaiting = AWAIT.frames | (space ? AWAIT.space : 0) | (blocks ? AWAIT.blocks : 0);
    const more = (awaiting & ~this.awaiting) !== 0;
    this.awaiting = awaiting;
    // Asleep, we said what we await; the poller parks again with the new answer.
    if (more) poller.touch(this);
  }

  // What the poller calls.

  step(): boolean {
    if (this.closed) return false;
    try {
      let found = this.writer.hasUnpublished;
      if (found) this.publish();
      if (this.arena.outstanding > 0) this.collectReleases();
      if (this.drain() > 0) found = true;
      if (!this.closed && this.awaiting !== AWAIT.frames && this.receiver!.onRoom()) {
        this.fruitlessWakes = 0;
        found = true;
      }
      if (!this.closed) this.publish();
      return found;
    } catch (error) {
      this.close(closedBy(error));
      return true;
    }
  }

  get expecting(): boolean {
    return this.kept || this.servesPeer;
  }

  hasWork(): boolean {
    return !this.closed && (this.reader.hasFrames() || (this.awaiting !== AWAIT.frames && this.hasRoom()));
  }

  tryPark(): boolean {
    if (this.closed) return true;
    this.tellLine();
    this.sleeper.park(this.awaiting);
    // SYNC bell.park: looked at after the sleep word was stored (BELL-1).
    if (this.hasWork() || this.writer.hasUnpublished) {
      this.sleeper.wake();
      return false;
    }
    if (this.arena.committedBytes > COMMIT_STEP_BYTES) this.trimLater();
    return true;
  }

  /** Gives the arena's memory back if it is not used for a while. */
  private trimLater(): void {
    if (this.trimTimer !== undefined) return;
    const { allocations } = this.arena;
    this.trimTimer = setTimeout(() => {
      this.trimTimer = undefined;
      if (this.closed) return;
      try {
        // The last blocks may have come back after this side went to sleep.
        this.collectReleases();
        if (this.arena.allocations === allocations) this.arena.trim();
        if (this.arena.committedBytes > COMMIT_STEP_BYTES) this.trimLater();
      } catch (error) {
        this.close(closedBy(error));
      }
    }, TRIM_AFTER_MS).unref();
  }

  wake(): void {
    if (!this.closed) this.sleeper.wake();
  }

  runsOn(cpu: number): void {
    if (!this.closed) this.cpuHint.publish(cpu);
  }

  sharesCore(): boolean {
    return !this.closed && this.cpuHint.sharesCore();
  }

  private hasRoom(): boolean {
    if ((this.awaiting & AWAIT.space) !== 0 && this.writer.headMoved()) return true;
    return (this.awaiting & AWAIT.blocks) !== 0 && this.releasesIn.hasReleases();
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
      poller.touch(this);
    }
  }

  /** The peer is gone: delivers the answers that it had published before it went, then closes. Requests of the dead nobody needs. */
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
    const taken = this.intake.take(this.reader.index, available);
    this.reader.consume(taken);
    this.reader.publishHead();
    // SYNC ring.consume, bell.park
    if (this.bell.mustRing(AWAIT.space)) this.ring();
    for (let at = 0; at < taken && !this.closed; ) at = this.deliver(at);
    return taken;
  }

  /** Hands on the frame at `at`, and returns where the next one is. */
  private deliver(at: number): number {
    const next = this.intake.open(at);
    const { frame, unit, generation } = this.intake;
    this.framesReceived++;
    this.receiver!.onFrame(frame);
    // The receiver has copied what lies in a block, so it can go back at once.
    if (unit !== 0 && !this.closed) {
      this.releasesOut.release(unit, generation);
      this.releasesOut.publish();
      // SYNC release.publish, bell.park
      if (this.bell.mustRing(AWAIT.blocks)) this.ring();
    }
    return next;
  }

  // Life.

  private ring(): void {
    this.rung++;
    // BELL-1 holds only if the ring arrives: what the kernel had no memory for is rung again.
    if (!this.line.ring()) setTimeout(() => !this.closed && this.ring(), RING_AGAIN_MS);
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

  close(reason: CarrierClosed): void {
    if (this.closed) return;
    this.closed = true;
    poller.remove(this);
    clearTimeout(this.trimTimer);
    this.line.close();
    this.arena.close();
    this.memory.close();
    this.receiver?.onClosed(reason);
  }

  stats(): CarrierStats {
    return {
      ringBytes: this.writer.capacity,
      arenaBytes: this.arena.byteLength,
      arenaCommittedBytes: this.arena.committedBytes,
      arenaInUseBytes: this.arena.outstandingBytes,
      unsentBytes: 0,
      framesSent: this.framesSent,
      framesReceived: this.framesReceived,
      doorbellsRung: this.rung,
      doorbellsReceived: this.ringsTaken,
      sleeps: this.sleeper.sleeps,
    };
  }
}

function closedBy(error: unknown): CarrierClosed {
  if (error instanceof Violation) return { cause: "violation", detail: error.message };
  return { cause: "failure", detail: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

function writeUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}
