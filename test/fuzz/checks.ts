/**
 * What is asked of the codec for one message or one input: that it does what protobuf-es does, in every form of its
 * API, and touches nothing that it was not given. A check that finds a difference throws a Mismatch.
 */
import type { BinaryReadOptions, DescMessage, Message } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DecodeOptions, Rope } from "../../src/codec/index.js";
import type { CodecApi } from "./api.js";
import { difference } from "./compare.js";
import { mutateRope } from "./mutate.js";
import type { Random } from "./random.js";
import type { Payloads } from "./ropes.js";
import { carve, joined, payloadsOf, standOnPayloads } from "./ropes.js";

/** A difference from protobuf-es. `check` names the question, the message gives the answer. */
export class Mismatch extends Error {
  readonly check: string;

  constructor(check: string, detail: string) {
    super(detail);
    this.name = "Mismatch";
    this.check = check;
  }
}

/** What a function did: its value, or that it threw. */
type Outcome<T> = { readonly threw: false; readonly value: T } | { readonly threw: true; readonly error: string };

function attempt<T>(run: () => T): Outcome<T> {
  try {
    return { threw: false, value: run() };
  } catch (error) {
    return { threw: true, error: error instanceof Error ? `${error.name}: ${error.message}` : typeof error };
  }
}

function valueOf<T>(outcome: Outcome<T>): T | undefined {
  return outcome.threw ? undefined : outcome.value;
}

const SPAN_BYTES_MIN = [0, 1, 4096];
/** Bytes around what the codec was given, whose contents it must neither change nor depend on. */
const MARGIN = 40;
const CANARY = 0xa5;

/** Memory that every check uses again, at an odd place of its ArrayBuffer. */
let scratch = new Uint8Array(new ArrayBuffer(1 << 17), 3);

function scratchOf(length: number): Uint8Array {
  if (scratch.length < length) scratch = new Uint8Array(new ArrayBuffer(2 * length), 3);
  return scratch;
}

/** Encodes a message (or what `create` takes for one) in every way, and decodes what came out. */
export function checkMessage(api: CodecApi, schema: DescMessage, message: Message, random: Random): void {
  const options = random.once(8) ? { writeUnknownFields: false } : undefined;
  const expected = attempt(() => toBinary(schema, create(schema, message), options));
  if (expected.threw) {
    checkRefusal(api, schema, message, expected.error);
    return;
  }
  const bytes = expected.value;
  checkEncodeInto(api, schema, message, bytes, random, options);
  const payloads = payloadsOf(schema, bytes);
  const ropes = SPAN_BYTES_MIN.map((spanBytesMin) => {
    const rope = api.encodeRope(schema, message, { ...options, spanBytesMin });
    checkRope(api, `encodeRope with spanBytesMin ${spanBytesMin}`, rope, bytes, payloads, spanBytesMin);
    return rope;
  });
  const again = attempt(() => toBinary(schema, create(schema, message), options));
  expectBytes("encoding leaves the message as it was", valueOf(again), bytes);
  checkInput(api, schema, bytes, random, payloads, ropes);
}

/**
 * What protobuf-es cannot encode, nobody can. `sizeOf` does not look at values of a fixed width, so it may still tell
 * one.
 */
function checkRefusal(api: CodecApi, schema: DescMessage, message: Message, error: string): void {
  const target = scratchOf(1 << 17);
  const ways: [string, () => unknown][] = [
    ["encodeInto", () => api.encodeInto(schema, message, target, 5)],
    ...SPAN_BYTES_MIN.map((spanBytesMin): [string, () => unknown] => [
      "encodeRope",
      () => api.encodeRope(schema, message, { spanBytesMin }),
    ]),
  ];
  for (const [name, run] of ways) {
    if (!attempt(run).threw)
      throw new Mismatch(`${name} refuses what toBinary refuses`, `no error instead of: ${error}`);
  }
}

function checkEncodeInto(
  api: CodecApi,
  schema: DescMessage,
  message: Message,
  bytes: Uint8Array,
  random: Random,
  options: { writeUnknownFields: boolean } | undefined,
): void {
  const size = bytes.length;
  expectNumber("sizeOf is exact", api.sizeOf(schema, message, options), size);

  const offset = MARGIN + random.below(8);
  const target = scratchOf(offset + size + 2 * MARGIN);
  target.fill(CANARY, 0, offset + size + MARGIN);
  expectNumber(
    "encodeInto tells how much it wrote",
    api.encodeInto(schema, message, target, offset, offset + size, options),
    size,
  );
  expectBytes("encodeInto writes what toBinary does", target.subarray(offset, offset + size), bytes);
  expectCanaries("encodeInto writes nowhere else", target, 0, offset);
  expectCanaries("encodeInto writes nowhere else", target, offset + size, offset + size + MARGIN);

  if (size > 0) {
    const limit = offset + (random.once(4) ? random.below(size) : size - 1);
    target.fill(CANARY, 0, offset + size + MARGIN);
    expectNumber(
      "encodeInto tells how much it needs",
      api.encodeInto(schema, message, target, offset, limit, options),
      -1 - size,
    );
    expectCanaries("encodeInto keeps the limit", target, 0, offset);
    expectCanaries("encodeInto keeps the limit", target, limit, offset + size + MARGIN);
  }
  if (options === undefined && random.once(4)) {
    const exact = target.subarray(MARGIN, MARGIN + size);
    target.fill(CANARY, 0, 2 * MARGIN + size);
    expectNumber("encodeInto fills a whole target", api.encodeInto(schema, message, exact), size);
    expectBytes("encodeInto fills a whole target", exact, bytes);
    expectCanaries("encodeInto stays in its view", target, 0, MARGIN);
    expectCanaries("encodeInto stays in its view", target, MARGIN + size, 2 * MARGIN + size);
  }
}

function checkRope(
  api: CodecApi,
  check: string,
  rope: Rope,
  bytes: Uint8Array,
  payloads: Payloads,
  spanBytesMin: number,
): void {
  const whole = joined(rope);
  if (whole === undefined) throw new Mismatch(check, `breaks ROPE-1: ${showRope(rope)}`);
  expectBytes(check, whole, bytes);
  if (rope.spans.some((span) => span.bytes.length < spanBytesMin))
    throw new Mismatch(check, `a span below the minimum: ${showRope(rope)}`);
  if (payloads.complete && !standOnPayloads(rope, payloads))
    throw new Mismatch(check, `breaks ROPE-2: ${showRope(rope)}`);
  expectBytes("joinRope gives the message", api.joinRope(rope), bytes);
}

/**
 * Decodes any input in every way: as it lies among other bytes, as the ropes given, and as ropes that have other
 * payloads as spans.
 */
export function checkInput(
  api: CodecApi,
  schema: DescMessage,
  bytes: Uint8Array,
  random: Random,
  payloads = payloadsOf(schema, bytes),
  ropes: readonly Rope[] = [],
): void {
  let options: DecodeOptions | undefined = undefined;
  let expected = attempt(() => fromBinary(schema, bytes));
  checkContiguous(api, schema, bytes, expected, random, options);
  for (const rope of ropes)
    compareOutcome(
      "decodeRope of what encodeRope made",
      attempt(() => api.decodeRope(schema, rope)),
      expected,
    );
  checkCarved(api, schema, bytes, payloads, expected, random, options);

  if (random.once(2)) {
    options = randomOptions(random);
    expected = attempt(() => fromBinary(schema, bytes, options));
    checkContiguous(api, schema, bytes, expected, random, options);
    checkCarved(api, schema, bytes, payloads, expected, random, options);
  }
}

function randomOptions(random: Random): DecodeOptions {
  const options: { -readonly [K in keyof DecodeOptions]: DecodeOptions[K] } = {};
  if (random.once(2)) (options as Partial<BinaryReadOptions>).readUnknownFields = random.once(4);
  if (random.once(2))
    (options as Partial<BinaryReadOptions>).recursionLimit = random.pick([0, 1, 2, 3, 4, 5, 99, 100, 101, 200]);
  if (random.once(4)) options.bytes = "view";
  return options;
}

function checkContiguous(
  api: CodecApi,
  schema: DescMessage,
  bytes: Uint8Array,
  expected: Outcome<Message>,
  random: Random,
  options: DecodeOptions | undefined,
): void {
  const offset = MARGIN + random.below(8);
  const end = offset + bytes.length;
  const buffer = scratchOf(end + MARGIN);
  for (const garbage of [0x08, random.below(256)]) {
    buffer.fill(garbage, 0, offset);
    buffer.set(bytes, offset);
    buffer.fill(garbage, end, end + MARGIN);
    // One that looks into `buffer.buffer` instead of the view would see this.
    const input = buffer.subarray(offset, end);
    const actual = attempt(() => api.decode(schema, input, options));
    expectBytes("decode leaves its input as it was", input, bytes);
    // What was decoded must not be seen to change with the input, unless views were asked for.
    if (options?.bytes !== "view") buffer.fill(~garbage, 0, end + MARGIN);
    compareOutcome(nameOf("decode", options), actual, expected);
  }
}

function checkCarved(
  api: CodecApi,
  schema: DescMessage,
  bytes: Uint8Array,
  payloads: Payloads,
  expected: Outcome<Message>,
  random: Random,
  options: DecodeOptions | undefined,
): void {
  const rope = carve(random, bytes, payloads);
  if (rope === undefined) return;
  const actual = attempt(() => api.decodeRope(schema, rope, options));
  expectBytes("decodeRope leaves its input as it was", joined(rope), bytes);
  if (options?.bytes !== "view") {
    rope.inline.fill(0xff);
    for (const span of rope.spans) span.bytes.fill(0xff);
  }
  try {
    compareOutcome(nameOf("decodeRope", options), actual, expected);
  } catch (error) {
    if (error instanceof Mismatch) error.message += `; spans ${showRope(rope)}`;
    throw error;
  }
}

/** Decodes one schema's bytes, and ropes whose spans follow that schema, under another one. */
export function checkMismatched(
  api: CodecApi,
  writer: DescMessage,
  reader: DescMessage,
  message: Message,
  random: Random,
): void {
  const encoded = attempt(() => toBinary(writer, message));
  if (encoded.threw) return;
  const ropes = SPAN_BYTES_MIN.map((spanBytesMin) => api.encodeRope(writer, message, { spanBytesMin }));
  checkInput(api, reader, encoded.value, random, payloadsOf(writer, encoded.value), ropes);
}

/**
 * Decodes a rope after damage to its table. It is refused; or, if the spans still fit, it is what its joined bytes are.
 * One that keeps every rule must not be refused.
 */
export function checkHostileRope(api: CodecApi, schema: DescMessage, bytes: Uint8Array, random: Random): void {
  const whole = carve(random, bytes, payloadsOf(schema, bytes)) ?? {
    inline: bytes.slice(),
    spans: [],
    byteLength: bytes.length,
  };
  let rope = whole;
  for (let i = 1 + random.below(2); i > 0; i--) rope = mutateRope(random, rope);
  const contents = joined(rope);
  const actual = attempt(() => api.decodeRope(schema, rope));
  const join = attempt(() => api.joinRope(rope));
  if (contents === undefined) {
    if (!join.threw) throw new Mismatch("joinRope refuses a broken table", showRope(rope));
    if (!actual.threw) throw new Mismatch("decodeRope refuses a broken table", showRope(rope));
    return;
  }
  expectBytes("joinRope of a damaged rope that keeps ROPE-1", valueOf(join), contents);
  const expected = attempt(() => fromBinary(schema, contents));
  const payloads = payloadsOf(schema, contents);
  if (actual.threw && !(payloads.complete && standOnPayloads(rope, payloads))) return;
  compareOutcome("decodeRope of a damaged rope", actual, expected);
}

function nameOf(name: string, options: DecodeOptions | undefined): string {
  return options === undefined ? name : `${name} with ${JSON.stringify(options)}`;
}

function compareOutcome(check: string, actual: Outcome<unknown>, expected: Outcome<unknown>): void {
  if (expected.threw) {
    if (!actual.threw) throw new Mismatch(check, `no error instead of: ${expected.error}`);
    return;
  }
  if (actual.threw) throw new Mismatch(check, `an error where there should be none: ${actual.error}`);
  const found = difference(actual.value, expected.value);
  if (found !== undefined) throw new Mismatch(check, found);
}

function expectNumber(check: string, actual: number, expected: number): void {
  if (actual !== expected) throw new Mismatch(check, `${actual} instead of ${expected}`);
}

function expectBytes(check: string, actual: Uint8Array | undefined, expected: Uint8Array): void {
  if (actual === undefined || Buffer.compare(actual, expected) !== 0) {
    throw new Mismatch(check, `${actual === undefined ? "an error" : hex(actual)} instead of ${hex(expected)}`);
  }
}

function expectCanaries(check: string, memory: Uint8Array, from: number, to: number): void {
  for (let i = from; i < to; i++)
    if (memory[i] !== CANARY) throw new Mismatch(check, `byte ${i - from} of the ${to - from} beside it changed`);
}

export function hex(bytes: Uint8Array): string {
  const shown = Buffer.from(bytes.subarray(0, 200)).toString("hex");
  return bytes.length > 200 ? `${shown}… (${bytes.length} bytes)` : shown === "" ? "nothing" : shown;
}

function showRope({ inline, spans, byteLength }: Rope): string {
  return `${spans.map((span) => `${span.bytes.length} at ${span.position}`).join(", ") || "none"} in ${byteLength}, ${inline.length} inline`;
}
