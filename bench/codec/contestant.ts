/** The process of one contestant: `contestant.js NAME`. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { runChild, send } from "../child.js";
import { HeapMeter } from "../measure.js";
import { check, loadContestant, type Contestant, type Loop } from "./contestants.js";
import { kinds, type CodecName } from "./rows.js";
import { shapes, type Shape } from "./shapes.js";
import type { CodecAnswer, CodecTask, PreparedRow } from "./task.js";

const warmPasses = 3;
/** Of a measured stretch, what is run before it without counting. */
const rampShare = 0.1;

interface Timed {
  readonly loop: Loop;
  /** So that messages take turns over all stretches. */
  at: number;
  /** Messages per millisecond, as last seen. */
  rate: number;
}

runChild(async ([name]) => {
  const contestant = await loadContestant(name as CodecName);
  const timed = new Map<string, Timed>();
  return (message) => {
    if (message.type === "codec") send({ type: "codec", answer: answer(message.task, contestant, timed) });
    else if (message.type === "stop") process.exit(0);
    return Promise.resolve();
  };
});

function answer(task: CodecTask, contestant: Contestant, timed: Map<string, Timed>): CodecAnswer {
  switch (task.do) {
    case "prepare":
      return { rows: shapes.flatMap((shape) => prepare(shape, contestant, timed)) };
    case "warm":
      for (let pass = 0; pass < warmPasses; pass++)
        for (const row of timed.values()) stretch(row, task.ms / warmPasses);
      return { figure: null };
    case "time": {
      const row = timed.get(`${task.kind} ${task.shape}`)!;
      stretch(row, task.ms * rampShare);
      const { count, elapsedMs } = stretch(row, task.ms);
      return { figure: (elapsedMs * 1e6) / count };
    }
    case "heap": {
      const row = timed.get(`${task.kind} ${task.shape}`)!;
      stretch(row, task.ms * rampShare);
      const meter = new HeapMeter();
      meter.start();
      const { count } = stretch(row, task.ms);
      const bytes = meter.stop();
      return { figure: bytes === null ? null : bytes / count };
    }
  }
}

function stretch(row: Timed, ms: number): { count: number; elapsedMs: number } {
  const count = Math.max(1, Math.round(ms * row.rate));
  const from = performance.now();
  row.loop(row.at, count);
  const elapsedMs = performance.now() - from;
  // Far beyond any run; a small integer all the same.
  row.at = (row.at + count) & 0xffff;
  if (elapsedMs > 0) row.rate = count / elapsedMs;
  return { count, elapsedMs };
}

function prepare(shape: Shape, contestant: Contestant, timed: Map<string, Timed>): PreparedRow[] {
  const inputs = shape.messages().map((message) => toBinary(shape.schema, message));
  // Decoded, so that strings lie in one fragment, as they do for contestants with messages of their own: those put
  // together of parts take V8 twice as long to read, until it happens to move them.
  const messages = inputs.map((input) => fromBinary(shape.schema, input.slice()));
  const subject = contestant(shape, messages, inputs);
  check(shape, messages, subject);
  const wireBytes = Math.round(inputs.reduce((sum, { length }) => sum + length, 0) / inputs.length);
  const rows: PreparedRow[] = [];
  for (const kind of kinds) {
    const loop = subject.loops[kind];
    if (loop === undefined) continue;
    const sum = loop(0, messages.length);
    timed.set(`${kind} ${shape.name}`, { loop, at: 0, rate: 1 });
    rows.push({ shape: shape.name, kind, wireBytes, sum });
  }
  return rows;
}
