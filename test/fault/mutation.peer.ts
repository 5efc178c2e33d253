/**
 * The process of the mutation proof that decodes what another one is changing, the way a carrier does: the frame is
 * copied once to private scratch, its header and its table of spans are read there and checked, and spans are views of
 * the peer's arena, which is mapped read-only.
 */
import type { DescMessage } from "@bufbuild/protobuf";
import type { DecodeOptions, Rope, Span } from "../../src/codec/index.js";
import { decode, decodeRope } from "../../src/codec/index.js";
import { RING_DATA_OFFSET, WORD } from "../../src/memory/shm/layout.js";
import { createOwnMemory, joinMemory } from "../../src/memory/shm/segment.js";
import { requireAddon } from "../../src/os/addon.js";
import { Random } from "../fuzz/random.js";
import { obey } from "../stress/peer.js";
import {
  FRAME_HEADER_BYTES,
  FRAME_WORD,
  GEOMETRY,
  INLINE_BYTES_MAX,
  SCHEMAS,
  SLOT_BYTES,
  SLOTS,
  SPAN_WORDS,
  SPANS_MAX,
} from "./mutation-frames.js";
import type { Met, Room, Rooms } from "./mutation-results.js";
import { expectedError, met, sumOf, touchAll } from "./mutation-results.js";

export interface MutationRun {
  readonly seed: number;
  readonly decodes: number;
  /** For what was not met after so many decodes. */
  readonly extraMsMax: number;
}

/** How the decodes of one kind ended. */
export interface Ended {
  decoded: number;
  failed: number;
}

export interface MutationReport {
  /** By what was decoded: contiguous messages and ropes, to copies and to views. */
  readonly ended: Record<string, Ended>;
  readonly met: Met;
  /** Errors by their text, numbers left out. */
  readonly errors: Record<string, number>;
  /** Frames that no carrier would give to a codec. */
  readonly refused: number;
  /** Looks at the input, before and after a decode, and how many of them saw two different things. */
  readonly looks: number;
  readonly framesChanged: number;
  readonly spansChanged: number;
  /** Messages that were decoded again from memory of their own, with the same result. */
  readonly repeated: number;
  /** What must not happen, with the inputs; the first few. */
  readonly defects: string[];
  readonly milliseconds: number;
  readonly cpuMilliseconds: number;
}

const COPY: DecodeOptions = { bytes: "copy" };
const VIEW: DecodeOptions = { bytes: "view" };
const KINDS = ["contiguous, copied", "ropes, copied", "contiguous, viewed", "ropes, viewed"] as const;
/** Like the carrier: small frames are copied by a loop over words. */
const COPY_LOOP_BYTES_MAX = 512;
const LOOK_EVERY = 15;
/** Even, like the turns on which arrays are looked at first. */
const REPEAT_EVERY = 64;
/** Decodes of one kind from one slot before the next. */
const DWELL = 50;
const SLICE_MS = 50;
const DEFECTS_MAX = 5;
/** Half of the decodes fail, and stacks would take longer than they do; a defect gets one when it is tried again. */
Error.stackTraceLimit = 0;
const STACK_FRAMES = 10;

const addon = requireAddon();
let listener: number;
let ownWords: Int32Array;
let ringBytes: Uint8Array;
let ringWords: Uint32Array;
let arena: ArrayBufferLike;
let arenaBytes: Uint8Array;

/** The scratch has room around a frame, where other bytes lie that are none of its business. */
const scratch = new Uint8Array(2 * SLOT_BYTES);
const scratchWords = new Uint32Array(scratch.buffer);
const INLINE_START = FRAME_HEADER_BYTES;

let input: ReadonlySet<ArrayBufferLike>;
const ended: Ended[] = KINDS.map(() => ({ decoded: 0, failed: 0 }));
const errors = new Map<string, number>();
const defects: string[] = [];
let slot = 0;
let refused = 0;
let looks = 0;
let framesChanged = 0;
let spansChanged = 0;
let repeated = 0;

obey({
  listen(path: string) {
    listener = addon.bindSocket(path, 0o600, -1);
    addon.listenSocket(listener, 1);
  },
  /** Maps the segments that the other process has sent, and sends it its own. */
  join() {
    const socket = addon.acceptSocket(listener);
    const { descriptors } = addon.receiveMessage(socket, new Uint8Array(1));
    const own = createOwnMemory(addon, GEOMETRY, true);
    addon.sendMessage(socket, new Uint8Array(1), [own.ringDescriptor, own.arenaDescriptor]);
    addon.closeDescriptor(socket);
    addon.closeDescriptor(listener);
    const memory = joinMemory(addon, own, descriptors);
    ownWords = new Int32Array(memory.ownRing, 0, RING_DATA_OFFSET / 4);
    ringBytes = new Uint8Array(memory.peerRing, RING_DATA_OFFSET);
    ringWords = new Uint32Array(memory.peerRing, RING_DATA_OFFSET);
    arenaBytes = memory.peerArena.upTo(memory.peerArena.byteLength);
    arena = arenaBytes.buffer;
    input = new Set([memory.peerRing, arena, scratch.buffer]);
  },
  run,
});

async function run({ seed, decodes, extraMsMax }: MutationRun): Promise<MutationReport> {
  const random = new Random(seed, 2);
  const start = performance.now();
  const cpuStart = process.cpuUsage();
  let enough = Infinity;
  let sequence = 0;
  let done = 0;
  while (done < decodes || (performance.now() < enough && !metEverything())) {
    const sliceEnd = performance.now() + SLICE_MS;
    while (performance.now() < sliceEnd && (done < decodes || enough < Infinity)) {
      for (let i = 0; i < 100; i++) if (decodeOne(random, sequence++)) done++;
    }
    if (done >= decodes && enough === Infinity) enough = performance.now() + extraMsMax;
    await new Promise(setImmediate);
  }
  const { user, system } = process.cpuUsage(cpuStart);
  return {
    ended: Object.fromEntries(KINDS.map((kind, i) => [kind, ended[i]])),
    met,
    errors: Object.fromEntries([...errors].sort(([, a], [, b]) => b - a)),
    refused,
    looks,
    framesChanged,
    spansChanged,
    repeated,
    defects,
    milliseconds: performance.now() - start,
    cpuMilliseconds: (user + system) / 1000,
  };
}

function metEverything(): boolean {
  const counts = [
    ...Object.values<number>({ ...met }),
    framesChanged,
    spansChanged,
    refused,
    repeated,
    ...ended.flatMap(({ decoded, failed }) => [decoded, failed]),
  ];
  return defects.length > 0 || !counts.includes(0);
}

/** Takes a frame from a slot and decodes it. False if it is not one that a codec would be given. */
function decodeOne(random: Random, sequence: number): boolean {
  const kind = Math.floor(sequence / DWELL) & 3;
  const ropes = (kind & 1) !== 0;
  const options = (kind & 2) === 0 ? COPY : VIEW;
  if (sequence % DWELL === 0) {
    slot = random.below(SLOTS / 2) + (ropes ? SLOTS / 2 : 0);
    // The other process sees where this one is, as it does in a ring.
    ownWords[WORD.head] = slot;
  }
  const start = slot * SLOT_BYTES;
  snapshot(start, 0, FRAME_HEADER_BYTES);
  const schema = SCHEMAS[scratchWords[FRAME_WORD.schema]] as DescMessage | undefined;
  const inlineBytes = scratchWords[FRAME_WORD.inlineBytes];
  const spans = ropes ? readTable() : NO_SPANS;
  if (schema === undefined || inlineBytes > INLINE_BYTES_MAX || spans === undefined) {
    refused++;
    return false;
  }
  snapshot(start + FRAME_HEADER_BYTES, INLINE_START, inlineBytes);
  const inline = new Uint8Array(scratch.buffer, INLINE_START, inlineBytes);
  const views = options === VIEW;
  const rooms: Rooms = {
    rope: ropes,
    views,
    inlineBytes,
    input,
    inline: views ? roomAt(inline) : undefined,
    spans: views ? spans.map(({ bytes }) => roomAt(bytes)) : [],
  };
  const looking = sequence % LOOK_EVERY === 0;
  const before = looking ? sumOfSpans(spans) : 0;
  // Packed numbers are read as arrays, and also as plain lists that nobody saw as an array before.
  const arraysFirst = (sequence & 1) === 0;
  let outcome: string | number;
  try {
    const message = ropes ? decodeRope(schema, ropeOf(inline, spans), options) : decode(schema, inline, options);
    outcome = touchAll(message, schema, rooms, arraysFirst);
    if (looking && !views && touchAll(message, schema, rooms, arraysFirst) !== outcome)
      defect("a copied message changed", schema, inline, spans);
    ended[kind].decoded++;
  } catch (error) {
    outcome = judge(error, schema, inline, spans);
    ended[kind].failed++;
  }
  if (looking) look(start, inlineBytes, before, spans);
  if (sequence % REPEAT_EVERY === 0) repeat(schema, ropeOf(inline, spans), ropes ? undefined : outcome);
  return true;
}

const NO_SPANS: readonly Span[] = [];

/** The rope of the frame in the scratch. */
function ropeOf(inline: Uint8Array, spans: readonly Span[]): Rope {
  return { inline, spans, byteLength: scratchWords[FRAME_WORD.byteLength] };
}

/** The spans of the frame in the scratch; undefined if one is not in the arena. Each number is read once. */
function readTable(): Span[] | undefined {
  const count = scratchWords[FRAME_WORD.spanCount];
  if (count > SPANS_MAX) return undefined;
  const spans: Span[] = [];
  for (let i = 0; i < count; i++) {
    const entry = FRAME_WORD.table + SPAN_WORDS * i;
    const position = scratchWords[entry];
    const offset = scratchWords[entry + 1];
    const length = scratchWords[entry + 2];
    if (offset + length > arenaBytes.length) return undefined;
    spans.push({ position, bytes: new Uint8Array(arena, offset, length) });
  }
  return spans;
}

function snapshot(index: number, to: number, byteLength: number): void {
  if (byteLength > COPY_LOOP_BYTES_MAX) {
    scratch.set(ringBytes.subarray(index, index + byteLength), to);
    return;
  }
  for (let i = index >> 2, j = to >> 2, end = j + ((byteLength + 3) >> 2); j < end; i++, j++)
    scratchWords[j] = ringWords[i];
}

function roomAt({ buffer, byteOffset, byteLength }: Uint8Array): Room {
  return { buffer, start: byteOffset, end: byteOffset + byteLength };
}

function sumOfSpans(spans: readonly Span[]): number {
  let sum = 0;
  for (const { bytes } of spans) sum = (sum + sumOf(bytes)) | 0;
  return sum;
}

/** Whether the input is still what it was when the decode began. */
function look(start: number, inlineBytes: number, before: number, spans: readonly Span[]): void {
  looks++;
  if (sumOfSpans(spans) !== before) spansChanged++;
  for (let i = 0; i < inlineBytes; i++) {
    if (ringBytes[start + FRAME_HEADER_BYTES + i] !== scratch[INLINE_START + i]) {
      framesChanged++;
      return;
    }
  }
}

/**
 * The same bytes in memory of their own, with nothing around them, come to the same: no byte was read that is
 * another's.
 */
function repeat(schema: DescMessage, { inline, spans, byteLength }: Rope, expected: string | number | undefined): void {
  const copies = spans.map(({ position, bytes }) => ({ position, bytes: bytes.slice() }));
  const amidOthers = expected ?? outcomeOf(schema, { inline, spans: copies, byteLength });
  const alone = outcomeOf(schema, {
    inline: inline.slice(),
    spans: copies,
    byteLength: expected === undefined ? byteLength : inline.length,
  });
  if (amidOthers === alone) repeated++;
  else defect(`${amidOthers}, but ${alone} from memory of its own`, schema, inline, copies);
}

function outcomeOf(schema: DescMessage, rope: Rope): string | number {
  const rooms: Rooms = {
    rope: false,
    views: false,
    inlineBytes: rope.inline.length,
    input,
    inline: undefined,
    spans: [],
  };
  try {
    return touchAll(decodeRope(schema, rope, COPY), schema, rooms, true);
  } catch (error) {
    return String(error);
  }
}

/** Counts an error that the codec documents; anything else is a defect. */
function judge(error: unknown, schema: DescMessage, inline: Uint8Array, spans: readonly Span[]): string {
  const name = expectedError(error);
  if (name === undefined)
    defect(
      `${String(error)}\nonce more, of what the spans are now: ${stackOf(schema, inline, spans)}`,
      schema,
      inline,
      spans,
    );
  else errors.set(name, (errors.get(name) ?? 0) + 1);
  return String(error);
}

function stackOf(schema: DescMessage, inline: Uint8Array, spans: readonly Span[]): string {
  Error.stackTraceLimit = STACK_FRAMES;
  try {
    if (spans.length === 0) decode(schema, inline);
    else decodeRope(schema, ropeOf(inline, spans));
    return "no error";
  } catch (error) {
    return (error as Error).stack ?? String(error);
  } finally {
    Error.stackTraceLimit = 0;
  }
}

function defect(what: string, schema: DescMessage, inline: Uint8Array, spans: readonly Span[]): void {
  if (defects.length >= DEFECTS_MAX) return;
  const parts = spans.map(({ position, bytes }) => ` span at ${position}: ${Buffer.from(bytes).toString("hex")}`);
  defects.push(`${what}\n${schema.typeName} ${Buffer.from(inline).toString("hex")}${parts.join("")}`);
}
