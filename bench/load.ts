/** Makes calls, with as many in flight as asked, and times each one. Every byte is written before and read after. */
import { echoBit, firstId, nextId } from "./answer.js";
import { HeapMeter, Recorder } from "./measure.js";
import { PayloadMismatch, PayloadPattern } from "./payload.js";
import type { Connection } from "./peers/peer.js";
import type { Payload } from "./proto/bench_pb.js";
import type { Load, Stretch } from "./protocol.js";

/** Smaller payloads lie on the heap whatever the peer offers, as users would have it. */
const loanBytesMin = 4096;

interface Lane {
  readonly connection: Connection;
  id: number;
  readonly request: Payload;
}

export class LoadGenerator {
  readonly #connections: readonly Connection[];
  readonly #client: number;
  readonly #recorder = new Recorder();
  #lanes: Lane[] = [];
  #pattern = new PayloadPattern(0);

  /**
   * @param connections the lanes take them in turn
   * @param client this client's number among those of one server
   */
  constructor(connections: readonly Connection[], client: number) {
    this.#connections = connections;
    this.#client = client;
  }

  async run(load: Load): Promise<Stretch> {
    this.#prepare(load);
    this.#recorder.reset();
    const heap = new HeapMeter();
    heap.start();
    const cpuFrom = process.cpuUsage();
    const from = performance.now();
    const until = from + load.durationMs;
    await Promise.all(this.#lanes.map((lane) => this.#drive(lane, load, until)));
    const elapsedMs = performance.now() - from;
    const cpu = process.cpuUsage(cpuFrom);
    const heapBytes = heap.stop();
    return {
      calls: this.#recorder.count,
      elapsedMs,
      cpuMicros: cpu.user + cpu.system,
      heapBytes,
      ...this.#recorder.samples(),
    };
  }

  #prepare({ byteLength, inFlight }: Load): void {
    if (this.#pattern.byteLength !== byteLength) {
      this.#pattern = new PayloadPattern(byteLength);
      this.#lanes = [];
    }
    this.#lanes.length = Math.min(this.#lanes.length, inFlight);
    while (this.#lanes.length < inFlight) this.#lanes.push(this.#createLane(this.#lanes.length, byteLength));
  }

  #createLane(lane: number, byteLength: number): Lane {
    const id = firstId(this.#client, lane);
    const connection = this.#connections[lane % this.#connections.length];
    return {
      connection,
      id,
      request: { $typeName: "isthmus.bench.Payload", id: BigInt(id), data: new Uint8Array(byteLength) },
    };
  }

  async #drive(lane: Lane, { byteLength, echo, pauseMs, callsMax }: Load, until: number): Promise<void> {
    const { connection, request } = lane;
    const calls = callsMax ?? Infinity;
    const pattern = this.#pattern;
    let producing: number;
    do {
      if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      const id = (lane.id = nextId(lane.id));
      producing = performance.now();
      request.id = echo ? BigInt(id) | echoBit : BigInt(id);
      if (connection.allocate !== undefined && byteLength >= loanBytesMin)
        request.data = await connection.allocate(byteLength);
      pattern.produce(request.data, id, "request");
      const called = performance.now();
      const reply = await connection.call(request);
      const replied = performance.now();
      if (reply.id !== request.id)
        throw new PayloadMismatch(`payload mismatch: call ${id} was answered with the reply to ${reply.id}`);
      pattern.check(reply.data, id, echo ? "request" : "reply");
      const read = performance.now();
      connection.free?.(reply);
      this.#recorder.add(replied - called, read - producing);
    } while (producing < until && this.#recorder.count < calls);
  }
}
