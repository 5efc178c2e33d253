/**
 * Methods whose messages grpc-js's generated code encodes and decodes itself, as Isthmus sees them: descriptors without fields, and
 * codecs that move bytes.
 */
import type { DescMessage, DescMethod, DescService } from "@bufbuild/protobuf";
import type { MessageCodec } from "../codec/codec.js";
import { joinRope } from "../codec/rope.js";

/** A codec of values that know how they become bytes and how they are read. Nobody writes to what `write` returns any more; `read` owns what it is given. */
export function createBytesCodec(write: (value: unknown) => Uint8Array, read: (bytes: Buffer) => unknown): MessageCodec {
  /** The last that did not fit: it is asked for as a rope next, as a rule. */
  let unsent: { readonly message: unknown; readonly bytes: Uint8Array } | undefined;
  return {
    ownsInline: true,
    encodeInto(message, target, offset, limit) {
      const bytes = write(message);
      if (bytes.length > limit - offset) {
        unsent = { message, bytes };
        return -1 - bytes.length;
      }
      target.set(bytes, offset);
      return bytes.length;
    },
    encode(message) {
      const inline = unsent !== undefined && unsent.message === message ? unsent.bytes : write(message);
      unsent = undefined;
      return { inline, spans: [], byteLength: inline.length };
    },
    decode(input, offset, byteLength, isOwned, spans) {
      if (spans.length === 0) {
        const bytes = isOwned ? input.subarray(offset, offset + byteLength) : input.slice(offset, offset + byteLength);
        return read(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
      }
      const joinedLength = spans.reduce((sum, { bytes }) => sum + bytes.length, byteLength);
      const bytes = joinRope({ inline: input.subarray(offset, offset + byteLength), spans, byteLength: joinedLength });
      return read(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
    },
  };
}

/** A method of which only its path and kind are known. */
export function methodOf(path: string, methodKind: DescMethod["methodKind"]): DescMethod {
  const [, typeName, name] = /^\/(.+)\/([^/]+)$/.exec(path) ?? [];
  if (typeName === undefined) throw new TypeError(`${path} is no method's path; expected /package.Service/Method`);
  const parent = { kind: "service", typeName, name: typeName.slice(typeName.lastIndexOf(".") + 1), method: {}, methods: [] } as unknown as DescService;
  const message = (which: string) => ({ kind: "message", typeName: `${typeName}.${name}.${which}`, name: which, fields: [], members: [], oneofs: [], field: {} }) as unknown as DescMessage;
  return { kind: "rpc", name, localName: name, parent, methodKind, input: message("Request"), output: message("Response"), idempotency: 0 } as unknown as DescMethod;
}
