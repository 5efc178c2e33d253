/**
 * What the RPC core asks of a codec, and the codec that is used unless another is given: protobuf-es's own.
 * A codec knows bytes and messages; it does not know where the bytes lie.
 */
import type { BinaryReadOptions, BinaryWriteOptions, DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { create, fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";

/** Encodes and decodes messages of one type. */
export interface MessageCodec {
  /**
   * Writes `message` (a message or what `create` accepts for it) into `target` from `offset`, and never at or past `limit`.
   * @returns the bytes written, or −1 − n if it does not fit and needs n bytes; then bytes up to `limit` may have changed
   */
  encodeInto(message: unknown, target: Uint8Array, offset: number, limit: number): number;
  /**
   * Encodes into heap memory that nobody else refers to. Called for messages that `encodeInto` could not fit, right
   * after it, so an implementation may keep its work from there.
   */
  encode(message: unknown): Uint8Array;
  /** Reads the message in `input[offset, offset + byteLength)`, which is private memory. @throws if malformed */
  decode(input: Uint8Array, offset: number, byteLength: number): unknown;
  /** Whether what `decode` returns may refer to the memory of `input`; then it is given memory that is not used again. */
  readonly aliasesInput: boolean;
}

/** Makes the codec of a message type; called once per type and connection end. */
export type MessageCodecFactory = (schema: DescMessage) => MessageCodec;

/** The codec of protobuf-es: `toBinary` and `fromBinary`. */
export function createProtobufEsCodec(options?: Partial<BinaryReadOptions & BinaryWriteOptions>): MessageCodecFactory {
  return (schema) => {
    let kept: { message: unknown; bytes: Uint8Array } | undefined;
    const toBytes = (message: unknown) => {
      const whole = isMessage(message, schema) ? message : create(schema, message as MessageInitShape<DescMessage>);
      return toBinary(schema, whole, options);
    };
    return {
      aliasesInput: true,
      encodeInto(message, target, offset, limit) {
        const bytes = toBytes(message);
        if (bytes.length > limit - offset) {
          kept = { message, bytes };
          return -1 - bytes.length;
        }
        if (bytes.length > 0) copyShort(bytes, target, offset);
        return bytes.length;
      },
      encode(message) {
        const bytes = kept?.message === message && kept !== undefined ? kept.bytes : toBytes(message);
        kept = undefined;
        return bytes;
      },
      decode(input, offset, byteLength) {
        return fromBinary(schema, input.subarray(offset, offset + byteLength), options);
      },
    };
  };
}

/** `set` has a fixed cost of about 100 ns; below this size a loop is faster. */
const LOOP_BYTES_MAX = 96;

function copyShort(from: Uint8Array, to: Uint8Array, offset: number): void {
  if (from.length > LOOP_BYTES_MAX) to.set(from, offset);
  else for (let i = 0; i < from.length; i++) to[offset + i] = from[i];
}
