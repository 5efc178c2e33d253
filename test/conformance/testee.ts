/**
 * The program that protobuf's conformance runner tests: takes requests from standard input and answers them on standard
 * output, each a 4-byte length (little-endian) and a message. The messages' types come from a descriptor set that the
 * user makes from protobuf's sources, so this project carries none of them.
 *
 *   node testee.js <descriptor set> [plain | rope | view | protobuf-es]
 *
 * Answers binary input with binary output, by our codec; everything else is skipped.
 */
import { readFileSync, readSync, writeSync } from "node:fs";
import type { DescMessage, FileRegistry, Message } from "@bufbuild/protobuf";
import { create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Edition, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { decode, decodeRope, encodeInto, encodeRope, joinRope, sizeOf } from "../../src/codec/index.js";

interface Way {
  read(schema: DescMessage, input: Uint8Array): Message;
  write(schema: DescMessage, message: Message): Uint8Array;
}

const ways: Readonly<Record<string, Way>> = {
  plain: { read: (schema, input) => decode(schema, input), write: writeInto },
  view: { read: (schema, input) => decode(schema, input, { bytes: "view" }), write: writeInto },
  // Twice through a rope, the second time one in which everything that can be is a span.
  rope: {
    read: (schema, input) => decodeRope(schema, { inline: input, spans: [], byteLength: input.length }),
    write(schema, message) {
      const again = decodeRope(schema, encodeRope(schema, message, { spanBytesMin: 0 }));
      return joinRope(encodeRope(schema, again, { spanBytesMin: 0 }));
    },
  },
  // For comparison.
  "protobuf-es": {
    read: (schema, input) => fromBinary(schema, input),
    write: (schema, message) => toBinary(schema, message),
  },
};

function writeInto(schema: DescMessage, message: Message): Uint8Array {
  const target = new Uint8Array(sizeOf(schema, message));
  const written = encodeInto(schema, message, target);
  if (written !== target.length) throw new TypeError(`sizeOf says ${target.length} bytes, encodeInto ${written}`);
  return target;
}

/** What is used of the request, a message made from the user's descriptors. */
interface Request {
  readonly payload: { readonly case?: string; readonly value?: unknown };
  readonly requestedOutputFormat: number;
  readonly messageType: string;
}

type Answer =
  | { readonly case: "protobufPayload"; readonly value: Uint8Array }
  | { readonly case: "parseError" | "serializeError" | "runtimeError" | "skipped"; readonly value: string };

/** Of the runner's `WireFormat`. */
const BINARY = 1;
/** The newest edition that protobuf-es has, and so the newest that we have. */
const EDITION_MAX = Edition.EDITION_2024;

function main([descriptorSet, wayName = "plain"]: readonly string[]): void {
  const way = ways[wayName];
  if (descriptorSet === undefined || way === undefined)
    throw new Error(`usage: testee.js <descriptor set> [${Object.keys(ways).join(" | ")}]`);
  const registry = loadRegistry(descriptorSet);
  const requestSchema = needed(registry, "conformance.ConformanceRequest");
  const responseSchema = needed(registry, "conformance.ConformanceResponse");
  for (;;) {
    const length = readBytes(4);
    if (length === undefined) return;
    const bytes = readBytes(length.readUInt32LE());
    if (bytes === undefined) throw new Error("the input ends within a request");
    const request = fromBinary(requestSchema, bytes) as unknown as Request;
    const response = toBinary(responseSchema, create(responseSchema, { result: answer(request, registry, way) }));
    const head = Buffer.alloc(4);
    head.writeUInt32LE(response.length);
    writeBytes(Buffer.concat([head, response]));
  }
}

function loadRegistry(path: string): FileRegistry {
  const set = fromBinary(FileDescriptorSetSchema, readFileSync(path));
  set.file = set.file.filter((file) => file.edition <= EDITION_MAX);
  return createFileRegistry(set);
}

function needed(registry: FileRegistry, typeName: string): DescMessage {
  const schema = registry.getMessage(typeName);
  if (schema === undefined) throw new Error(`the descriptor set has no ${typeName}`);
  return schema;
}

function answer({ payload, requestedOutputFormat, messageType }: Request, registry: FileRegistry, way: Way): Answer {
  if (!(payload.value instanceof Uint8Array) || payload.case !== "protobufPayload")
    return { case: "skipped", value: `input as ${payload.case}` };
  if (requestedOutputFormat !== BINARY) return { case: "skipped", value: "output that is not binary" };
  const schema = registry.getMessage(messageType);
  if (schema === undefined)
    return { case: "skipped", value: `the descriptor set has no ${messageType} of an edition that is supported` };
  let message: Message;
  try {
    message = way.read(schema, payload.value);
  } catch (error) {
    return { case: isMistake(error) ? "runtimeError" : "parseError", value: String(error) };
  }
  try {
    return { case: "protobufPayload", value: way.write(schema, message) };
  } catch (error) {
    return { case: isMistake(error) ? "runtimeError" : "serializeError", value: String(error) };
  }
}

/** Whether the error tells of a mistake in the codec, which must not pass for a refusal of the input. */
function isMistake(error: unknown): boolean {
  // A TextDecoder refuses bytes with a TypeError that has a code.
  return (
    error instanceof ReferenceError ||
    error instanceof SyntaxError ||
    (error instanceof TypeError && (error as NodeJS.ErrnoException).code === undefined)
  );
}

/** The next bytes of standard input, or undefined at its end. */
function readBytes(length: number): Buffer | undefined {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; ) {
    const count = readSync(0, bytes, at, length - at, null);
    if (count === 0) return undefined;
    at += count;
  }
  return bytes;
}

function writeBytes(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
}

main(process.argv.slice(2));
