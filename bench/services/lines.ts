/**
 * What both ends of the lines know.
 *
 * A line is a payload whose data depends on its number in its stream, and whose id says who wrote it and when:
 *
 * ```
 * | producer: 8 bits | time of writing in ns, of a clock that all processes share: 56 bits |
 * ```
 */
import type { Recorder } from "../measure.js";
import { PayloadPattern } from "../payload.js";
import type { Payload } from "../proto/bench_pb.js";
import { lineBytes } from "./task.js";

const timeBits = 56n;
const timeMask = (1n << timeBits) - 1n;

/** The line that a producer writes now. */
export function writeLine(pattern: PayloadPattern, producer: number, number: number): Payload {
  const data = new Uint8Array(lineBytes);
  pattern.produce(data, number, "request");
  return { $typeName: "isthmus.bench.Payload", id: idOf(producer, process.hrtime.bigint()), data };
}

/**
 * On a socket, without streams: a producer has written its last line, or so many of its lines have come. It has no data.
 */
export function endOfLines(producer: number, count: number): Payload {
  return { $typeName: "isthmus.bench.Payload", id: idOf(producer, BigInt(count)), data: new Uint8Array(0) };
}

export function producerOf({ id }: Payload): number {
  return Number(id >> timeBits);
}

export function countOf({ id }: Payload): number {
  return Number(id & timeMask);
}

function idOf(producer: number, rest: bigint): bigint {
  return (BigInt(producer) << timeBits) | (rest & timeMask);
}

/** Takes the lines of one stream: compares them, and notes how long each took. */
export class LineReader {
  readonly #pattern = new PayloadPattern(lineBytes);
  readonly #delays: Recorder;
  #count = 0;

  constructor(delays: Recorder) {
    this.#delays = delays;
  }

  get count(): number {
    return this.#count;
  }

  take({ id, data }: Payload): void {
    const delayMs = Number((process.hrtime.bigint() & timeMask) - (id & timeMask)) / 1e6;
    this.#pattern.check(data, this.#count++, "request");
    this.#delays.add(delayMs, delayMs);
  }
}
