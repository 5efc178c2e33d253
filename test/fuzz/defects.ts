/**
 * The codec with one small defect each, of the kind that such a codec could really have. The harness is worth something
 * only if it finds every one of them.
 */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { fromBinary } from "@bufbuild/protobuf";
import type { Rope, Span } from "../../src/codec/index.js";
import { joinRope } from "../../src/codec/index.js";
import type { CodecApi } from "./api.js";
import { setOwn } from "./messages.js";
import { payloadsOf } from "./ropes.js";

/** The codec with the defect, by what the defect is. */
export function defectsOf(api: CodecApi): ReadonlyMap<string, CodecApi> {
  const withDefect = (defect: Partial<CodecApi>): CodecApi => ({
    sizeOf: api.sizeOf,
    encodeInto: api.encodeInto,
    encodeRope: api.encodeRope,
    decode: api.decode,
    decodeRope: api.decodeRope,
    joinRope: api.joinRope,
    ...defect,
  });
  /** Changes what is decoded, on both ways. */
  const decoding = (change: (message: Record<string, unknown>, schema: DescMessage) => void): CodecApi => {
    const changed = (schema: DescMessage, message: Message) => {
      change(message, schema);
      return message;
    };
    return withDefect({
      decode: (schema, input, options) => changed(schema, api.decode(schema, input, options)),
      decodeRope: (schema, rope, options) => changed(schema, api.decodeRope(schema, rope, options)),
    });
  };
  /** Changes the top-level fields of a decoded message. */
  const values = (change: (value: unknown) => unknown) =>
    decoding((message) => {
      for (const key of Object.keys(message)) message[key] = change(message[key]);
    });
  const encodeRope = (change: (rope: Rope) => Rope) =>
    withDefect({ encodeRope: (schema, message, options) => change(api.encodeRope(schema, message, options)) });
  const changedBytes = (change: (bytes: Uint8Array) => Uint8Array) =>
    withDefect({
      encodeInto(schema, message, target, offset = 0, limit = target.length, options) {
        const written = api.encodeInto(schema, message, target, offset, limit, options);
        if (written > 0) target.set(change(target.slice(offset, offset + written)).subarray(0, written), offset);
        return written;
      },
    });

  return new Map([
    // What is decoded.
    ["-0 becomes 0", values((value) => (Object.is(value, -0) ? 0 : value))],
    ["NaN becomes 0", values((value) => (Number.isNaN(value) ? 0 : value))],
    ["unknown fields are dropped", decoding((message) => void delete message["$unknown"])],
    [
      "unknown fields change their order",
      decoding((message) => void (message["$unknown"] as unknown[] | undefined)?.reverse()),
    ],
    ["an empty list of unknown fields is kept", decoding((message) => void (message["$unknown"] ??= []))],
    ["messages lose their prototype", decoding((message) => void Object.setPrototypeOf(message, Object.prototype))],
    [
      "a field is an own property that should be inherited",
      decoding((message) => {
        for (const key in message) if (!Object.hasOwn(message, key)) setOwn(message, key, message[key]);
      }),
    ],
    [
      "64-bit strings become bigints",
      decoding((message, schema) => {
        for (const field of schema.fields)
          if ("longAsString" in field && field.longAsString && typeof message[field.localName] === "string")
            message[field.localName] = BigInt(message[field.localName] as string);
      }),
    ],
    ["bytes are Buffers", values((value) => (value instanceof Uint8Array ? Buffer.from(value) : value))],
    [
      "a byte-order mark is dropped",
      values((value) => (typeof value === "string" ? value.replace(/^\ufeff/, "") : value)),
    ],
    [
      "map keys change their order",
      values((value) =>
        value !== null &&
        Object.getPrototypeOf(Object(value)) === Object.prototype &&
        !Object.hasOwn(value as object, "case") &&
        !Object.hasOwn(value as object, "$typeName")
          ? Object.fromEntries(Object.entries(value as object).reverse())
          : value,
      ),
    ],
    [
      "the key __proto__ is lost",
      values((value) => {
        if (typeof value === "object" && value !== null && Object.hasOwn(value, "__proto__"))
          delete (value as Record<string, unknown>)["__proto__"];
        return value;
      }),
    ],
    [
      "unpaired surrogates come through",
      decoding((message, schema) => {
        for (const field of schema.fields)
          if (field.fieldKind === "scalar" && message[field.localName] === "\ufffd")
            message[field.localName] = "\ud800";
      }),
    ],
    [
      "a message is decoded as a view of the input",
      withDefect({ decode: (schema, input, options) => fromBinary(schema, input, options) }),
    ],
    [
      "decode looks beyond its view",
      withDefect({
        decode: (schema, input, options) => {
          const seen = new Uint8Array(
            input.buffer,
            input.byteOffset,
            Math.min(input.length + 1, input.buffer.byteLength - input.byteOffset),
          );
          return api.decode(schema, input.length > 0 && seen[input.length] === 8 ? seen : input, options);
        },
      }),
    ],
    [
      "decode writes into its input",
      withDefect({
        decode: (schema, input, options) => {
          const message = api.decode(schema, input, options);
          if (input.length > 20) input[0] ^= 1;
          return message;
        },
      }),
    ],
    [
      "the recursion limit is one too high",
      withDefect({
        decode: (schema, input, options) =>
          api.decode(schema, input, { ...options, recursionLimit: (options?.recursionLimit ?? 100) + 1 }),
      }),
    ],
    [
      "readUnknownFields is ignored",
      withDefect({
        decode: (schema, input, options) => api.decode(schema, input, { ...options, readUnknownFields: true }),
      }),
    ],
    [
      "the end of a truncated input is forgiven",
      withDefect({
        decode(schema, input, options) {
          try {
            return api.decode(schema, input, options);
          } catch (error) {
            for (let length = input.length - 1; length >= Math.max(0, input.length - 3); length--) {
              try {
                return api.decode(schema, input.subarray(0, length), options);
              } catch {
                // Shorter still.
              }
            }
            throw error;
          }
        },
      }),
    ],
    [
      "invalid UTF-8 is refused",
      withDefect({
        decode(schema, input, options) {
          const message = api.decode(schema, input, options);
          if (Object.values(message).includes("\ufffd")) throw new Error("invalid UTF-8");
          return message;
        },
      }),
    ],

    // What is encoded.
    [
      "the limit is off by one",
      withDefect({
        encodeInto(schema, message, target, offset = 0, limit = target.length, options) {
          return api.encodeInto(schema, message, target, offset, Math.min(limit + 1, target.length), options);
        },
      }),
    ],
    [
      "one byte is written past a limit that is too small",
      withDefect({
        encodeInto(schema, message, target, offset = 0, limit = target.length, options) {
          const written = api.encodeInto(schema, message, target, offset, limit, options);
          if (written < 0 && limit < target.length) target[limit] = 0;
          return written;
        },
      }),
    ],
    [
      "the byte before the offset is written",
      withDefect({
        encodeInto(schema, message, target, offset = 0, limit = target.length, options) {
          if (offset > 0) target[offset - 1] = 0;
          return api.encodeInto(schema, message, target, offset, limit, options);
        },
      }),
    ],
    [
      "the need is told without the sign's one",
      withDefect({
        encodeInto(schema, message, target, offset = 0, limit = target.length, options) {
          const written = api.encodeInto(schema, message, target, offset, limit, options);
          return written < 0 ? written + 1 : written;
        },
      }),
    ],
    [
      "sizeOf takes a character for a byte",
      withDefect({
        sizeOf: (schema, message, options) => {
          const text = Object.values(message).find(
            (value) => typeof value === "string" && value !== message.$typeName,
          ) as string | undefined;
          return (
            api.sizeOf(schema, message, options) - (text === undefined ? 0 : Buffer.byteLength(text) - text.length)
          );
        },
      }),
    ],
    [
      "missing required fields are forgiven",
      withDefect({
        encodeInto: (schema, message, target, offset, limit, options) => {
          try {
            return api.encodeInto(schema, message, target, offset, limit, options);
          } catch {
            return 0;
          }
        },
      }),
    ],
    [
      "encodeRope forgives what cannot be encoded",
      withDefect({
        encodeRope: (schema, message, options) => {
          try {
            return api.encodeRope(schema, message, options);
          } catch {
            return { inline: new Uint8Array(0), spans: [], byteLength: 0 };
          }
        },
      }),
    ],
    [
      "writeUnknownFields is ignored",
      withDefect({
        encodeInto: (schema, message, target, offset, limit) => api.encodeInto(schema, message, target, offset, limit),
      }),
    ],
    ["a last zero byte is left away", changedBytes((bytes) => (bytes.at(-1) === 0 ? bytes.with(-1, 1) : bytes))],
    [
      "the message is changed by encoding",
      withDefect({
        sizeOf: (schema, message, options) => {
          const size = api.sizeOf(schema, message, options);
          const unknown = message.$unknown;
          if (unknown !== undefined && unknown.length > 1) message.$unknown = unknown.slice(1);
          return size;
        },
      }),
    ],

    // Ropes.
    ["a rope's length does not count its spans", encodeRope((rope) => ({ ...rope, byteLength: rope.inline.length }))],
    [
      "a span is one place too early",
      encodeRope((rope) => ({
        ...rope,
        spans: rope.spans.map(({ position, bytes }) => ({ position: position - 1, bytes })),
      })),
    ],
    [
      "a rope's last span is forgotten",
      encodeRope((rope) => (rope.spans.length === 0 ? rope : { ...rope, spans: rope.spans.slice(0, -1) })),
    ],
    [
      "spans smaller than the minimum",
      withDefect({
        encodeRope: (schema, message, options) =>
          api.encodeRope(schema, message, { ...options, spanBytesMin: Math.min(options?.spanBytesMin ?? 0, 3) }),
      }),
    ],
    [
      "a span holds a tag as well",
      encodeRope((rope) => {
        const start = rope.inline.length - 1;
        return rope.spans.length > 0 || start < 0
          ? rope
          : {
              inline: rope.inline.slice(0, start),
              spans: [{ position: start, bytes: rope.inline.slice(start) }],
              byteLength: rope.byteLength,
            };
      }),
    ],
    [
      "only the first span is joined",
      withDefect({
        decodeRope: (schema, rope, options) =>
          rope.spans.length < 2
            ? api.decodeRope(schema, rope, options)
            : api.decode(schema, Buffer.concat([rope.inline, rope.spans[0].bytes]), options),
      }),
    ],
    [
      "a span in a field that is read as another type is an error",
      withDefect({
        decodeRope(schema, rope, options) {
          const whole = joinRope(rope);
          const places = payloadsOf(schema, whole).found;
          if (
            !rope.spans.every((span) =>
              places.some(({ start, length }) => start === span.position && length === span.bytes.length),
            )
          )
            throw new Error("no span is expected here");
          return api.decodeRope(schema, rope, options);
        },
      }),
    ],
    [
      "a span keeps its memory",
      withDefect({
        decodeRope: (schema, rope, options) =>
          rope.spans.length === 1 && rope.inline.length < 3
            ? viewed(schema, rope.spans, api.decodeRope(schema, rope, options))
            : api.decodeRope(schema, rope, options),
      }),
    ],
    [
      "the order of spans is not looked at",
      withDefect({
        decodeRope: (schema, rope, options) =>
          api.decodeRope(schema, { ...rope, spans: [...rope.spans].sort((a, b) => a.position - b.position) }, options),
      }),
    ],
    [
      "spans that were too many are ignored",
      withDefect({
        decodeRope(schema, rope, options) {
          const spans = rope.spans.filter((span) => span.position + span.bytes.length <= rope.byteLength);
          return api.decodeRope(schema, { ...rope, spans }, options);
        },
      }),
    ],
    [
      "a rope's announced length is not looked at",
      withDefect({
        decodeRope: (schema, rope, options) =>
          api.decodeRope(
            schema,
            { ...rope, byteLength: rope.spans.reduce((sum, span) => sum + span.bytes.length, rope.inline.length) },
            options,
          ),
      }),
    ],
    [
      "joinRope rounds positions",
      withDefect({
        joinRope: (rope) =>
          api.joinRope({
            ...rope,
            spans: rope.spans.map(({ position, bytes }) => ({ position: Math.trunc(position), bytes })),
          }),
      }),
    ],
  ]);
}

/** The message with its bytes field taken from the span itself. */
function viewed(schema: DescMessage, spans: readonly Span[], message: Message): Message {
  const fields = message as unknown as Record<string, unknown>;
  for (const field of schema.fields)
    if (
      fields[field.localName] instanceof Uint8Array &&
      (fields[field.localName] as Uint8Array).length === spans[0].bytes.length
    )
      fields[field.localName] = spans[0].bytes;
  return message;
}
