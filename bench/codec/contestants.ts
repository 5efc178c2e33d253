/**
 * Who takes part, and how each encodes and decodes: as its users do, in the fastest way that it documents.
 *
 * Each row of a contestant is a loop of its own, compiled for it, so that every call site sees one type only, as in
 * code that users write for a type. Inside of the codecs everything is shared by all shapes, as in a process with many
 * types.
 */
import { readFileSync } from "node:fs";
import { equals, fromBinary, toBinary, type Message } from "@bufbuild/protobuf";
import type protobufjs from "protobufjs";
import * as codec from "../../src/codec/index.js";
import { PeerUnavailable } from "../peers/peer.js";
import { literals, patternOf } from "./literals.js";
import type { CodecName, Kind } from "./rows.js";
import type { Shape } from "./shapes.js";

/** Works `count` times, from the message with number `from` on. @returns what was read, added up */
export type Loop = (from: number, count: number) => number;

/** A contestant with one shape. */
export interface Subject {
  readonly loops: Partial<Record<Kind, Loop>>;
  /**
   * The message with this number as wire bytes, and the same after decoding and encoding once more; absent if it does
   * neither.
   */
  readonly encoded?: (at: number) => Uint8Array;
  readonly recoded?: (at: number) => Uint8Array;
}

/** @param inputs the messages' wire bytes */
export type Contestant = (shape: Shape, messages: readonly Message[], inputs: readonly Uint8Array[]) => Subject;

/** A type of protobufjs, made by reflection or by `pbjs`. */
interface PbjsType {
  encode(message: object): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
}

const project = new URL("../../../", import.meta.url);
const views = { bytes: "view" } as const;

/** Loads one only, so that a process carries no code of another. */
export async function loadContestant(name: CodecName): Promise<Contestant> {
  switch (name) {
    case "isthmus":
      return isthmus;
    case "protobuf-es":
      return protobufEs;
    case "protobufjs": {
      const { default: library } = await load<{ default: typeof protobufjs }>("protobufjs");
      const root = library.parse(readFileSync(new URL("bench/proto/shapes.proto", project), "utf8")).root.resolveAll();
      return pbjs((typeName) => root.lookupType(typeName));
    }
    case "protobufjs-static": {
      const generated = await load<Record<string, unknown>>(new URL("bench/proto/shapes_pbjs.js", project).href);
      return pbjs(
        (typeName) =>
          typeName
            .split(".")
            .reduce<unknown>((scope, part) => (scope as Record<string, unknown>)[part], generated) as PbjsType,
      );
    }
    case "literal":
      return literal;
  }
}

async function load<T>(module: string): Promise<T> {
  try {
    return (await import(module)) as T;
  } catch (error) {
    throw new PeerUnavailable(`${module} does not load: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** What the contestant writes says the same as the message, also after reading it. @throws if not */
export function check({ name, schema }: Shape, messages: readonly Message[], { encoded, recoded }: Subject): void {
  messages.forEach((message, at) => {
    for (const bytes of [encoded?.(at), recoded?.(at)]) {
      // Views and pooled memory: protobuf-es's decoder gets bytes of its own.
      if (bytes !== undefined && !equals(schema, message, fromBinary(schema, bytes.slice())))
        throw new Error(`${name} ${at} has become another message`);
    }
  });
}

function isthmus(shape: Shape, messages: readonly Message[], inputs: readonly Uint8Array[]): Subject {
  const { schema } = shape;
  const { encodeInto, decode, decodeRope, packed, view } = codec;
  const target = new Uint8Array(Math.max(...inputs.map((input) => input.length)) + 64);
  const given = { schema, messages, inputs, target, encodeInto, decode, views, consume: shape.consume };
  const make = loopsFor("isthmus", shape, messages.length);
  const loops: Subject["loops"] = {
    encode: make(
      "encode",
      given,
      "const length = encodeInto(schema, messages[at], target); sum = (sum + length + target[length - 1]) | 0;",
    ),
    decode: make("decode", given, reading("decode(schema, inputs[at])")),
  };
  if (shape.hasBytes) loops.views = make("views", given, reading("decode(schema, inputs[at], views)"));
  if (shape.name === "doubles") {
    const field = schema.field["values"];
    const aligned = inputs.map((input) => placedAt(input, payloadAlignment - doublesHeaderBytes));
    const ropes = inputs.map((input) => ({
      inline: input.slice(0, doublesHeaderBytes),
      spans: [{ position: doublesHeaderBytes, bytes: placedAt(input.subarray(doublesHeaderBytes), 0) }],
      byteLength: input.length,
    }));
    const more = { ...given, packed, field, aligned, ropes, decodeRope, consumeFew };
    loops.packed = make(
      "packed",
      more,
      reading("decode(schema, aligned[at], views)", "consumeFew(packed(message, field))"),
    );
    loops["packed-rope"] = make(
      "packed-rope",
      more,
      reading("decodeRope(schema, ropes[at], views)", "consumeFew(packed(message, field))"),
    );
  }
  if (shape.name === "mixed")
    loops.view = make(
      "view",
      { ...given, view, consumeTwo },
      reading("view(schema, inputs[at])", "consumeTwo(message)"),
    );
  const encode = (message: Message): Uint8Array => target.slice(0, encodeInto(schema, message, target));
  return { loops, encoded: (at) => encode(messages[at]), recoded: (at) => encode(decode(schema, inputs[at])) };
}

/** Decodes `bytes` fields as parts of the input; for copies see `Shape.detach`. */
function protobufEs(shape: Shape, messages: readonly Message[], inputs: readonly Uint8Array[]): Subject {
  const { schema } = shape;
  const copy = (bytes: Uint8Array): Uint8Array => bytes.slice();
  const given = {
    schema,
    messages,
    inputs,
    toBinary,
    fromBinary,
    copy,
    detach: shape.detach,
    consume: shape.consume,
    consumeFew,
    consumeTwo,
  };
  const make = loopsFor("protobuf_es", shape, messages.length);
  const loops: Subject["loops"] = {
    encode: make(
      "encode",
      given,
      "const bytes = toBinary(schema, messages[at]); sum = (sum + bytes.length + bytes[bytes.length - 1]) | 0;",
    ),
    decode: make("decode", given, copying(shape, "fromBinary(schema, INPUT)")),
  };
  if (shape.hasBytes) loops.views = make("views", given, reading("fromBinary(schema, inputs[at])"));
  if (shape.name === "doubles") {
    const few = reading("fromBinary(schema, inputs[at])", "consumeFew(message.values)");
    loops.packed = make("packed", given, few);
    loops["packed-rope"] = make("packed-rope", given, few);
  }
  if (shape.name === "mixed")
    loops.view = make("view", given, reading("fromBinary(schema, inputs[at])", "consumeTwo(message)"));
  return {
    loops,
    encoded: (at) => toBinary(schema, messages[at]),
    recoded: (at) => toBinary(schema, fromBinary(schema, inputs[at])),
  };
}

/**
 * Reads `Buffer`s, as Node's sockets and files give them, and makes parts of them its `bytes` fields; for copies see
 * `Shape.detach`. What it encodes are messages of its own classes, with `Long` for 64-bit numbers: what it is fastest
 * with.
 */
function pbjs(typeOf: (typeName: string) => PbjsType): Contestant {
  return (shape, _, plain) => {
    const type = typeOf(shape.schema.typeName);
    const inputs = plain.map((input) => Buffer.from(input));
    const messages = plain.map((input) => type.decode(Buffer.from(input)));
    const copy = (bytes: Uint8Array): Uint8Array => Buffer.from(bytes);
    const given = { type, messages, inputs, copy, detach: shape.detach, consume: shape.consume };
    const make = loopsFor("protobufjs", shape, messages.length);
    const loops: Subject["loops"] = {
      encode: make(
        "encode",
        given,
        "const bytes = type.encode(messages[at]).finish(); sum = (sum + bytes.length + bytes[bytes.length - 1]) | 0;",
      ),
      decode: make("decode", given, copying(shape, "type.decode(INPUT)")),
    };
    if (shape.hasBytes) loops.views = make("views", given, reading("type.decode(inputs[at])"));
    return {
      loops,
      encoded: (at) => type.encode(messages[at]).finish(),
      recoded: (at) => type.encode(type.decode(inputs[at])).finish(),
    };
  };
}

function literal(shape: Shape, messages: readonly Message[]): Subject {
  const build = literals[shape.name];
  if (build === undefined) return { loops: {} };
  const patterns = messages.map((message) => patternOf(message));
  const make = loopsFor("literal", shape, messages.length);
  return {
    loops: { decode: make("decode", { patterns, build, consume: shape.consume }, reading("build(patterns[at])")) },
  };
}

/**
 * Makes loops around a statement that adds to `sum` what it reads; `at` is the number of the message whose turn it is.
 * What is decoded is kept in `kept` until the next one, since V8 would not make an object that nobody keeps.
 */
function loopsFor(who: string, shape: Shape, instances: number) {
  return (kind: Kind, given: Record<string, unknown>, statement: string): Loop => {
    const name = `${who}_${shape.name}_${kind.replace("-", "_")}`;
    const code = `"use strict"; return function ${name}(from, count) {
      let sum = 0;
      for (let i = from; i < from + count; i++) { const at = i & ${instances - 1}; ${statement} }
      return sum;
    };`;
    // Every loop has a text of its own, since closures of one text would share what V8 learns about their types.
    // eslint-disable-next-line @typescript-eslint/no-implied-eval
    return (new Function("kept", ...Object.keys(given), code) as (...values: unknown[]) => Loop)(
      { message: null },
      ...Object.values(given),
    );
  };
}

/** The statement that makes a message and reads it. */
function reading(made: string, read = "consume(message)", before = ""): string {
  return `const message = ${made}; ${before} kept.message = message; sum = (sum + ${read}) | 0;`;
}

/** The same with copies, for a codec whose `bytes` fields are parts of its `INPUT`. */
function copying({ hasBytes, detach }: Shape, made: string): string {
  const copyWhole = hasBytes && detach === undefined;
  return reading(
    made.replace("INPUT", copyWhole ? "copy(inputs[at])" : "inputs[at]"),
    undefined,
    detach === undefined ? "" : "detach(message, copy);",
  );
}

/** Tag and length of the only field of `Doubles`, when it has 10 000 values. */
const doublesHeaderBytes = 4;
const payloadAlignment = 8;

/** A copy that starts this many bytes into its memory. */
function placedAt(bytes: Uint8Array, offset: number): Uint8Array {
  const placed = new Uint8Array(offset + bytes.length).subarray(offset);
  placed.set(bytes);
  return placed;
}

function consumeFew(values: ArrayLike<number>): number {
  const last = values.length - 1;
  return values.length + (values[0] + values[1] + values[last >> 1] + values[last] > 0 ? 1 : 0);
}

function consumeTwo(message: { id: number; phone: string }): number {
  return (message.id & 255) + message.phone.length;
}
