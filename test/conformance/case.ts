/**
 * A row of the table of binary inputs, and its check: the codec must take or refuse the input as the row says, make of
 * it what protobuf-es makes of it, and write it back as the row says, by every way in and out that it has.
 */
import assert from "node:assert/strict";
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DecodeOptions, EncodeOptions } from "../../src/codec/index.js";
import { decode, decodeRope, encodeInto, encodeRope, joinRope, sizeOf } from "../../src/codec/index.js";
import { compact, toBytes, toHex } from "./bytes.js";

/** The input must not be decoded. */
export const REFUSED = Symbol("refused");
/** The input can be decoded, but what comes of it cannot be encoded. */
export const UNWRITABLE = Symbol("unwritable");

export interface Case {
  /** What the input is; with the group's name a sentence. */
  readonly name: string;
  readonly schema: DescMessage;
  /** In hexadecimal. */
  readonly input: string;
  /** The bytes written for what was read, in hexadecimal; none: the same as the input. */
  readonly output?: string | typeof REFUSED | typeof UNWRITABLE;
  /** Some of the fields of the decoded message. */
  readonly fields?: Readonly<Record<string, unknown>>;
  readonly decodeOptions?: DecodeOptions;
  readonly encodeOptions?: EncodeOptions;
  /** What the specification of the encoding asks for, where protobuf-es (and so this codec) does otherwise. */
  readonly specified?: string;
}

export interface Group {
  readonly name: string;
  readonly cases: readonly Case[];
}

/** What is wrong, one text per case. */
export function failuresOf(groups: readonly Group[]): string[] {
  const failures: string[] = [];
  // Most rows throw by every way in; collecting their stacks is most of the time.
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  for (const group of groups) {
    for (const row of group.cases) {
      try {
        checkCase(row);
      } catch (error) {
        failures.push(
          `${group.name}: ${row.name} (${row.schema.name}, ${compact(row.input)}): ${(error as Error).message}`,
        );
      }
    }
  }
  Error.stackTraceLimit = stackTraceLimit;
  return failures;
}

/** @throws saying what is not as the row has it */
export function checkCase(row: Case): void {
  const input = toBytes(row.input);
  const reads = readers(row, input);
  if (row.output === REFUSED) {
    assert.throws(() => fromBinary(row.schema, input, row.decodeOptions), "protobuf-es takes it: the row is wrong");
    for (const [way, read] of reads) assert.throws(read, (error) => isRefusal(error), `taken by ${way}`);
    return;
  }
  const reference = fromBinary(row.schema, input, row.decodeOptions);
  const expected = row.output === UNWRITABLE ? UNWRITABLE : compact(row.output ?? row.input);
  if (expected === UNWRITABLE)
    assert.throws(() => toBinary(row.schema, reference, row.encodeOptions), "protobuf-es writes it: the row is wrong");
  else
    assert.equal(
      toHex(toBinary(row.schema, reference, row.encodeOptions)),
      expected,
      "protobuf-es writes other bytes: the row is wrong",
    );

  for (const [way, read] of reads) {
    const message = attempt(way, read);
    assert.deepStrictEqual(message, reference, `${way} reads something else than protobuf-es`);
    for (const [name, value] of Object.entries(row.fields ?? {})) {
      assert.deepStrictEqual(
        (message as unknown as Record<string, unknown>)[name],
        value,
        `${way} reads another value of ${name}`,
      );
    }
    checkWriting(row, message, way, expected);
  }
}

function checkWriting(row: Case, message: Message, way: string, expected: string | typeof UNWRITABLE): void {
  const { schema, encodeOptions } = row;
  if (expected === UNWRITABLE) {
    assert.throws(
      () => encodeInto(schema, message, new Uint8Array(4096), 0, 4096, encodeOptions),
      `encodeInto writes what ${way} read`,
    );
    assert.throws(
      () => encodeRope(schema, message, { ...encodeOptions, spanBytesMin: 0 }),
      `encodeRope writes what ${way} read`,
    );
    return;
  }
  const byteLength = expected.length / 2;
  assert.equal(sizeOf(schema, message, encodeOptions), byteLength, `sizeOf of what ${way} read`);

  // Exactly as much room as needed, between bytes that must stay.
  const target = new Uint8Array(byteLength + 6).fill(0xa5);
  assert.equal(
    encodeInto(schema, message, target, 3, 3 + byteLength, encodeOptions),
    byteLength,
    `encodeInto of what ${way} read`,
  );
  assert.equal(toHex(target), `a5a5a5${expected}a5a5a5`, `encodeInto writes other bytes of what ${way} read`);
  if (byteLength > 0) {
    target.fill(0xa5);
    assert.equal(
      encodeInto(schema, message, target, 3, 2 + byteLength, encodeOptions),
      -1 - byteLength,
      `encodeInto with a byte too little`,
    );
    assert.equal(toHex(target.subarray(2 + byteLength)), "a5a5a5a5", "encodeInto writes past its limit");
  }
  for (const spanBytesMin of [0, 4]) {
    const rope = encodeRope(schema, message, { ...encodeOptions, spanBytesMin });
    assert.equal(rope.byteLength, byteLength, "byteLength of the rope");
    assert.equal(toHex(joinRope(rope)), expected, `the rope is other bytes, joined (spans from ${spanBytesMin} bytes)`);
    const again = attempt("decodeRope", () => decodeRope(schema, rope, row.decodeOptions));
    assert.deepStrictEqual(
      again,
      fromBinary(schema, toBytes(expected), row.decodeOptions),
      `decodeRope reads something else (spans from ${spanBytesMin} bytes)`,
    );
  }
}

type Reader = readonly [way: string, read: () => Message];

/**
 * SUBTLE: bytes that follow the input would complete a cut value, so a reader that does not mind its end is found out.
 */
function readers({ schema, decodeOptions }: Case, input: Uint8Array<ArrayBuffer>): Reader[] {
  const placed = (filler: number): Uint8Array => {
    const room = new Uint8Array(input.length + 32).fill(filler);
    room.set(input, 16);
    return room.subarray(16, 16 + input.length);
  };
  return [
    ["decode", () => decode(schema, input, decodeOptions)],
    ["decode amid zeros", () => decode(schema, placed(0x00), decodeOptions)],
    ["decode amid ones", () => decode(schema, placed(0x01), decodeOptions)],
    ["decode amid set bits", () => decode(schema, placed(0xff), decodeOptions)],
    ["decode to views", () => decode(schema, input.slice(), { ...decodeOptions, bytes: "view" })],
    ["decodeRope", () => decodeRope(schema, { inline: input, spans: [], byteLength: input.length }, decodeOptions)],
  ];
}

/** Refusing is an error about the input, not one that tells of a mistake in the codec. */
function isRefusal(error: unknown): boolean {
  if (error instanceof ReferenceError || error instanceof SyntaxError) return false;
  // A strict TextDecoder throws a TypeError with a code.
  return error instanceof Error && !(error instanceof TypeError && (error as NodeJS.ErrnoException).code === undefined);
}

function attempt(way: string, read: () => Message): Message {
  try {
    return read();
  } catch (error) {
    throw new Error(`${way} refuses it: ${(error as Error).message}`, { cause: error });
  }
}
