/**
 * What the RPC core asks of a codec. A codec knows bytes and messages; it does not know where the bytes lie.
 */
import type { DescMessage } from "@bufbuild/protobuf";

/** Encodes and decodes messages of one type. */
export interface MessageCodec {
  /**
   * Writes `message` (a message or what `create` accepts for it) into `target` from `offset`, and never at or past `limit`.
   * @returns the bytes written, or −1 − n if it does not fit and needs n bytes; then bytes up to `limit` may have changed
   */
  encodeInto(message: unknown, target: Uint8Array, offset: number, limit: number): number;
  /**
   * Encodes to parts that, joined up, are the message. Parts may be the message's own bytes: they are read until the
   * message is sent. Called for a message that `encodeInto` could not fit, right after it, so an implementation may keep
   * its work from there.
   */
  encode(message: unknown): readonly Uint8Array[];
  /** Reads the message in `input[offset, offset + byteLength)`, which is private memory. @throws if malformed */
  decode(input: Uint8Array, offset: number, byteLength: number): unknown;
  /** Whether what `decode` returns may refer to the memory of `input`; then it is given memory that is not used again. */
  readonly aliasesInput: boolean;
}

/** Makes the codec of a message type; called twice per method and connection end. */
export type MessageCodecFactory = (schema: DescMessage) => MessageCodec;

export function totalLength(parts: readonly Uint8Array[]): number {
  let byteLength = 0;
  for (const part of parts) byteLength += part.length;
  return byteLength;
}
