/** The codec under test as an interface, so that one harness proves any implementation of it, and its own defects. */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { DecodeOptions, EncodeOptions, Rope, RopeOptions } from "../../src/codec/index.js";
import * as codec from "../../src/codec/index.js";

export interface CodecApi {
  sizeOf(schema: DescMessage, message: Message, options?: EncodeOptions): number;
  encodeInto(schema: DescMessage, message: Message, target: Uint8Array, offset?: number, limit?: number, options?: EncodeOptions): number;
  encodeRope(schema: DescMessage, message: Message, options?: RopeOptions): Rope;
  decode(schema: DescMessage, input: Uint8Array, options?: DecodeOptions): Message;
  decodeRope(schema: DescMessage, rope: Rope, options?: DecodeOptions): Message;
  joinRope(rope: Rope): Uint8Array;
}

/** The module at `location`, which exports the functions of the codec; by default, the codec. */
export async function loadApi(location = process.env["ISTHMUS_FUZZ_CODEC"]): Promise<CodecApi> {
  return location === undefined ? codec : ((await import(location)) as CodecApi);
}
