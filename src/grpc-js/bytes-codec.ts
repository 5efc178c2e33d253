/**
 * Methods whose messages grpc-js's generated code encodes and decodes: their descriptors have no fields, and their
 * codecs move bytes.
 */
import type { DescMessage, DescMethod, DescService } from "@bufbuild/protobuf";
import { inOwnContext } from "../carrier/poll/root-context.js";
import type { MessageCodec } from "../codec/codec.js";
import { joinRope } from "../codec/rope/rope.js";
import { OWN_PATH } from "../connect/descriptors.js";

/**
 * A codec for values with their own functions for encoding and decoding. The array that `write` returns must not be
 * modified afterwards. `read` owns its argument, and may be user code that is called inside Isthmus's own loop
 * (CONTEXT-2).
 */
export function createBytesCodec(
  write: (value: unknown) => Uint8Array,
  read: (bytes: Buffer) => unknown,
): MessageCodec {
  return {
    ownsInline: true,
    encodeInto(message, target, offset, limit) {
      const bytes = write(message);
      if (bytes.length > limit - offset) return -1 - bytes.length;
      target.set(bytes, offset);
      return bytes.length;
    },
    encode(message) {
      const inline = write(message);
      return { inline, spans: [], byteLength: inline.length };
    },
    decode(input, offset, byteLength, isOwned, spans) {
      if (spans.length === 0) {
        const bytes = isOwned ? input.subarray(offset, offset + byteLength) : input.slice(offset, offset + byteLength);
        return inOwnContext(read, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
      }
      const joinedLength = spans.reduce((sum, { bytes }) => sum + bytes.length, byteLength);
      const bytes = joinRope({ inline: input.subarray(offset, offset + byteLength), spans, byteLength: joinedLength });
      return inOwnContext(read, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
    },
  };
}

/**
 * A descriptor for a method of which only path and kind are known. The path may be any text, since grpc-js's clients
 * may call any.
 */
export function methodOf(path: string, methodKind: DescMethod["methodKind"]): DescMethod {
  const [, typeName = "", name = path] = /^\/(.*)\/([^/]*)$/.exec(path) ?? [];
  const parent = {
    kind: "service",
    typeName,
    name: typeName.slice(typeName.lastIndexOf(".") + 1),
    method: {},
    methods: [],
  } as unknown as DescService;
  const message = (which: string) =>
    ({
      kind: "message",
      typeName: `${typeName}.${name}.${which}`,
      name: which,
      fields: [],
      members: [],
      oneofs: [],
      field: {},
    }) as unknown as DescMessage;
  const method = {
    kind: "rpc",
    name,
    localName: name,
    parent,
    methodKind,
    input: message("Request"),
    output: message("Response"),
    idempotency: 0,
  };
  return Object.assign(method, { [OWN_PATH]: path }) as unknown as DescMethod;
}
