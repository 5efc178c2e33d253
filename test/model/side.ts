/**
 * One side of the model: the shipped carrier (rings, releases, arena, sleep words, drain) under the
 * shipped sendQueue. What is swapped is what the kernel and the processor do between them:
 *
 *   words        through the carrier's `WordAccess`; a step each
 *   ring data    stored when a frame is committed, loaded when the carrier takes its snapshot; each frame in `frameSteps` steps
 *   releases     the entries of one `publish` in a step before the count, all slots in a step after it was loaded
 *   blocks       one step to fill a block, one to copy it out
 *   doorbell     a counter: ringing is a step, taking is a step
 *   poller       its `schedule` marks a connection awake at once; `live` below is its loop: step while something is found,
 *                then park; asleep, only a doorbell, the hang-up or the user's next message goes on; in a scenario that
 *                serves sides asleep, `serveAsleep` does what the poller does then, and what is sent is shown at once
 *
 * Each actor has private copies of all segments, brought up to date by its own loads: it sees nothing else.
 */
import assert from "node:assert/strict";
import type { CarrierClosed, ReceivedFrame } from "../../src/carrier/carrier.js";
import { poller } from "../../src/carrier/poll/poller.js";
import { ShmCarrier } from "../../src/carrier/shm/shm.js";
import { ARENA_UNIT_BYTES, RING_DATA_OFFSET, WORD } from "../../src/memory/shm/layout.js";
import type { ArenaView, ConnectionMemory } from "../../src/memory/shm/segment.js";
import type { WordAccess } from "../../src/memory/shm/words.js";
import { SendQueue } from "../../src/send/send-queue.js";
import { FIELD, FLAG, FRAME_HEADER_BYTES, KIND, MESSAGE_BYTES_MAX } from "../../src/wire/frame.js";
import type { Port, Turn } from "./actor.js";
import { EVENT } from "./actor.js";
import type { Copies, Shared } from "./cells.js";
import { CELL_BYTES } from "./cells.js";
import { FRAGMENT_BYTES, Received, blockOf, bulkCodec, markOf } from "./payload.js";
import type { CarrierParts, Scenario, Send } from "./scenario.js";
import { SERVER } from "./scenario.js";

/** The shipped carrier; its frames reach the shared memory when they are committed. */
export class ModelCarrier extends ShmCarrier {
  /** While `serveAsleep` steps it, and whether it is to be stepped again. */
  serving = false;
  servesAgain = false;
  onCommit: ((byteLength: number) => void) | undefined;
  afterPublish: (() => void) | undefined;

  override commit(byteLength: number): void {
    this.onCommit?.(byteLength);
    super.commit(byteLength);
  }

  override publish(): void {
    super.publish();
    this.afterPublish?.();
  }
}

export class Side {
  private readonly shared: Shared;
  private readonly side: number;
  private readonly copies: Copies;
  private readonly port: Port;
  private readonly carrier: ModelCarrier;
  private readonly sendQueue: SendQueue;
  private readonly received: Received;
  /** Bursts that the user has sent, and messages in all. */
  private bursts = 0;
  private sent = 0;
  private deliveredBytes = 0;
  private entriesWritten = 0;
  private readonly late: (() => void)[] = [];

  constructor(shared: Shared, side: number, copies: Copies, port: Port) {
    const { scenario } = shared;
    this.shared = shared;
    this.side = side;
    this.copies = copies;
    this.port = port;
    this.received = new Received(scenario.sends[1 - side].flat());
    const line = {
      ring: () => (port.ring(), true),
      keepAlive: () => undefined,
      close: () => undefined,
      addon: undefined as never,
      sendDescriptor: () => false,
      fetch: () => false,
    };
    this.carrier = new ModelCarrier({
      memory: memoryOf(scenario, copies),
      line,
      pollMicros: 0,
      spans: true,
      trust: { isolation: "shared", reason: "a model" },
      words: this.words(),
    });
    const inner = this.carrier as unknown as CarrierParts;
    // No outcome may rest on a timer.
    inner.starvation.start = () => undefined;
    const { frameReader } = inner;
    assert.equal(typeof frameReader.snapshot, "function", "ring data is read in `snapshot` of the frameReader");
    const snapshot = frameReader.snapshot.bind(frameReader);
    frameReader.snapshot = (index, to, byteLength) => {
      this.loadData(index, byteLength);
      snapshot(index, to, byteLength);
    };
    this.carrier.onCommit = (byteLength) => this.storeFrame(this.carrier.index, byteLength);
    scenario.defect?.patch?.(this.carrier, inner);
    this.sendQueue = new SendQueue(this.carrier, {
      onSent: () => undefined,
      onFailed: (_, thrown) => this.fail(String(thrown)),
    });
    const receiver = {
      onFrame: (frame: ReceivedFrame) => this.onFrame(frame),
      onFilled: () => assert.fail("nothing follows a frame in shared memory"),
      onRoom: () => this.sendQueue.pump(),
      onClosed: (reason: CarrierClosed) => this.onClosed(reason),
    };
    this.carrier.start(receiver, side === SERVER);
  }

  /** The poller's loop around this one carrier, and its user. */
  live(): number {
    const { carrier, port } = this;
    const { eager, defect } = this.shared.scenario;
    const takesLate = defect?.takesLate === true;
    if (eager) this.sendBurst();
    while (!carrier.closed) {
      const event = port.turn(this.turn(), () => this.digest());
      switch (event) {
        case EVENT.goOn:
          this.goOn();
          break;
        case EVENT.rung:
          if (takesLate) {
            poller.schedule(carrier);
            this.goOn();
            port.unwind();
            port.take();
          } else {
            carrier.onDoorbell(port.take());
            if (!carrier.awake && !carrier.closed) this.serveAsleep();
          }
          break;
        case EVENT.send:
          this.sendBurst();
          if (!carrier.awake) carrier.flush();
          break;
        case EVENT.hangup:
          carrier.onHangup();
          break;
      }
      port.unwind();
    }
    return this.deliveredBytes;
  }

  private digest(): string {
    const { carrier, sendQueue, received, bursts, sent, deliveredBytes, entriesWritten } = this;
    return digestOf([carrier, sendQueue, received, bursts, sent, deliveredBytes, entriesWritten], this.copies);
  }

  private turn(): Turn {
    const { carrier, bursts } = this;
    const maySend = bursts < this.shared.scenario.sends[this.side].length;
    return {
      asleep: !carrier.awake,
      events: true,
      maySend,
      complete: !maySend && this.sendQueue.idle && this.received.whole,
    };
  }

  private goOn(): void {
    const { carrier, port } = this;
    const found = carrier.step();
    port.unwind();
    if (found) return;
    const turn = { ...this.turn(), events: false };
    // Another connection's step comes in between, and its handler sends here.
    if (turn.maySend && port.turn(turn, () => `parking ${this.digest()}`) === EVENT.send) this.sendBurst();
    if (carrier.tryPark()) carrier.awake = false;
  }

  private serveAsleep(): void {
    const { carrier, port } = this;
    carrier.serving = true;
    carrier.servesAgain = false;
    const found = carrier.step();
    carrier.serving = false;
    port.unwind();
    const parked = found && !carrier.servesAgain && carrier.tryPark();
    carrier.servesAgain = false;
    if (!parked && !carrier.closed) poller.schedule(carrier);
  }

  private sendBurst(): void {
    for (const what of this.shared.scenario.sends[this.side][this.bursts++] ?? []) this.send(what);
    this.port.unwind();
  }

  private send(what: Send): void {
    const streamId = ++this.sent;
    if (what === "frame") this.sendQueue.sendControl(KIND.ping, 0, streamId, markOf(streamId, 0));
    else
      this.sendQueue.send({
        kind: KIND.request,
        flags: 0,
        code: 0,
        streamId,
        argument: markOf(streamId, 0),
        metadata: undefined,
        codec: bulkCodec(streamId),
        message: undefined,
        writeMaxBytes: MESSAGE_BYTES_MAX,
        label: "",
      });
  }

  private onFrame(frame: ReceivedFrame): void {
    const inBlock = (frame.flags & FLAG.inBlock) !== 0;
    this.deliveredBytes += FRAME_HEADER_BYTES + (inBlock ? CELL_BYTES : 0);
    let mark = frame.argument;
    if (inBlock) {
      assert.equal(frame.fragmentSource.buffer, this.copies.peerArena);
      const unit = frame.fragmentOffset / ARENA_UNIT_BYTES;
      [mark] = this.port.load([this.shared.cells.blocks[1 - this.side][blockOf(unit)]]);
    }
    this.received.take(frame, mark);
  }

  private onClosed(reason: CarrierClosed): void {
    if (!this.port.unwinding && reason.cause !== "hangup") this.fail(`${reason.cause}: ${reason.detail}`);
  }

  private fail(detail: string): void {
    if (!this.port.unwinding) throw new Error(detail);
  }

  // Between the carrier and the shared memory.

  private words(): WordAccess {
    const { side, port, copies } = this;
    const { cells } = this.shared;
    const sideOf = (words: Int32Array) => (words.buffer === copies.ownRing ? side : 1 - side);
    return {
      load: (words, index) => {
        const of = sideOf(words);
        const [value] = port.load([cells.wordOf(of, index)]);
        if (index === WORD.released && value > 0) this.loadEntries(words, of);
        return value;
      },
      store: (words, index, value) => {
        assert.equal(sideOf(words), side, "LAYOUT-1: a word of the peer is stored");
        if (index === WORD.released) this.storeEntries(words, value);
        port.store([cells.wordOf(side, index)], [value], true);
        return value;
      },
    };
  }

  private storeFrame(index: number, byteLength: number): void {
    if (this.shared.scenario.defect?.storesFramesLate === true) {
      this.late.push(() => this.storeData(index, byteLength));
      this.carrier.afterPublish = () => {
        for (const store of this.late.splice(0)) store();
      };
      return;
    }
    this.storeData(index, byteLength);
  }

  private storeData(index: number, byteLength: number): void {
    const { side, port, copies } = this;
    const { cells, octets } = this.shared;
    const words = new Int32Array(copies.ownRing, RING_DATA_OFFSET);
    const start = index >> 2;
    if (((words[start + FIELD.kindFlagsCode] >>> 8) & FLAG.inBlock) !== 0) {
      const unit = words[start + FRAME_HEADER_BYTES / 4];
      port.store(
        [cells.blocks[side][blockOf(unit)]],
        [new Uint8Array(copies.ownArena)[unit * ARENA_UNIT_BYTES]],
        false,
      );
    }
    for (const part of this.parts(index, byteLength)) {
      const values = part.map((at) => octets.idOf(words[at >> 2], words[(at >> 2) + 1]));
      port.store(
        part.map((at) => this.dataCell(side, at)),
        values,
        false,
      );
    }
  }

  private loadData(index: number, byteLength: number): void {
    const { side, port, copies } = this;
    const words = new Int32Array(copies.peerRing, RING_DATA_OFFSET);
    for (const part of this.parts(index, byteLength)) {
      const values = port.load(part.map((at) => this.dataCell(1 - side, at)));
      part.forEach((at, i) => words.set(this.shared.octets.pair(values[i]), at >> 2));
    }
  }

  /** The offsets of a frame's eight bytes each, cut into the parts that make a step. */
  private parts(index: number, byteLength: number): number[][] {
    const offsets = Array.from({ length: byteLength / CELL_BYTES }, (_, i) => index + i * CELL_BYTES);
    const frames = Math.max(1, Math.floor(byteLength / FRAME_HEADER_BYTES));
    const each = Math.ceil(offsets.length / (frames * this.shared.scenario.frameSteps));
    const parts: number[][] = [];
    while (offsets.length > 0) parts.push(offsets.splice(0, each));
    return parts;
  }

  private dataCell(side: number, offset: number): number {
    return this.shared.cells.data[side][(offset % this.shared.scenario.ringBytes) / CELL_BYTES];
  }

  private storeEntries(words: Int32Array, count: number): void {
    const { scenario, cells, octets } = this.shared;
    const slots: number[] = [];
    for (; this.entriesWritten < count; this.entriesWritten++) slots.push(this.entriesWritten % scenario.releaseSlots);
    const values = slots.map((slot) =>
      octets.idOf(words[WORD.releaseEntries + slot * 2], words[WORD.releaseEntries + slot * 2 + 1]),
    );
    this.port.store(
      slots.map((slot) => cells.entries[this.side][slot]),
      values,
      false,
    );
  }

  private loadEntries(words: Int32Array, of: number): void {
    const values = this.port.load(this.shared.cells.entries[of]);
    values.forEach((id, slot) => words.set(this.shared.octets.pair(id), WORD.releaseEntries + slot * 2));
  }
}

function memoryOf({ ringBytes, releaseSlots, blocks }: Scenario, copies: Copies): ConnectionMemory {
  const geometry = { ringBytes, releaseSlots };
  return {
    ownRing: copies.ownRing,
    peerRing: copies.peerRing,
    ownArena: viewOf(copies.ownArena),
    peerArena: viewOf(copies.peerArena),
    ownGeometry: geometry,
    peerGeometry: geometry,
    ownPages: {
      byteLength: ARENA_UNIT_BYTES + blocks * FRAGMENT_BYTES,
      commit: () => undefined,
      decommit: () => undefined,
    },
    budget: { take: () => true, give: () => undefined, explanation: "", onPressure: undefined, close: () => undefined },
    leasable: false,
    isIsolated: false,
    isPeerIsolated: false,
    close: () => undefined,
  };
}

function viewOf(buffer: ArrayBuffer): ArenaView {
  const bytes = new Uint8Array(buffer);
  const noViews = () => assert.fail("no bytes are leased or loaned here");
  return {
    byteLength: buffer.byteLength,
    upTo: () => bytes,
    viewOf: noViews,
    detach: noViews,
    listenToFreedViews: () => undefined,
  };
}

/** Larger arrays are memory: the books of an arena of a few units are small. */
const BOOKS_BYTES_MAX = 4096;

/**
 * All that objects hold, as text: places with the same text have the same future. Left out are functions (they hold
 * nothing but their object here), and memory: copies of segments and the scratch, which are loaded before each use.
 */
function digestOf(value: unknown, copies: Copies, seen = new Map<object, number>()): string {
  if (typeof value !== "object" || value === null) return typeof value === "function" ? "" : String(value);
  if (value instanceof ArrayBuffer) return "";
  if (value instanceof Uint8Array || value instanceof Int32Array || value instanceof Uint32Array) {
    const isMemory = value.byteLength > BOOKS_BYTES_MAX || Object.values(copies).includes(value.buffer);
    return isMemory ? "" : value.join();
  }
  const number = seen.get(value);
  if (number !== undefined) return `#${number}`;
  seen.set(value, seen.size);
  let entries: unknown[] = Object.values(value);
  if (value instanceof Map) entries = [...value.entries()].flat();
  else if (value instanceof Set) entries = [...value];
  return `(${entries.map((entry) => digestOf(entry, copies, seen)).join()})`;
}
