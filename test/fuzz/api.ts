/** The codec under test as an interface, so that one harness proves any implementation of it, and its own defects. */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import type { DecodeOptions, EncodeOptions, Rope, RopeOptions } from "../../src/codec/index.js";
import * as codec from "../../src/codec/index.js";
import { PayloadsSchema } from "../proto/codec/modern_pb.js";

export interface CodecApi {
  readonly sizeOf: (schema: DescMessage, message: Message, options?: EncodeOptions) => number;
  readonly encodeInto: (
    schema: DescMessage,
    message: Message,
    target: Uint8Array,
    offset?: number,
    limit?: number,
    options?: EncodeOptions,
  ) => number;
  readonly encodeRope: (schema: DescMessage, message: Message, options?: RopeOptions) => Rope;
  readonly decode: (schema: DescMessage, input: Uint8Array, options?: DecodeOptions) => Message;
  readonly decodeRope: (schema: DescMessage, rope: Rope, options?: DecodeOptions) => Message;
  readonly joinRope: (rope: Rope) => Uint8Array;
}

/** The module at `location`, which exports the functions of the codec; by default, the codec. */
export async function loadApi(location = process.env["ISTHMUS_FUZZ_CODEC"]): Promise<CodecApi> {
  return location === undefined ? codec : ((await import(location)) as CodecApi);
}

/** Whether the codec makes spans at all. One that does not is protobuf-es behind the same functions. */
export function makesSpans(api: CodecApi): boolean {
  return (
    api.encodeRope(PayloadsSchema, create(PayloadsSchema, { data: new Uint8Array(64) }), { spanBytesMin: 1 }).spans
      .length > 0
  );
}
