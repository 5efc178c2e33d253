/**
 * `isthmus/codec` encodes protobuf-es messages into memory that the caller gives, and decodes them.
 *
 * It works on its own, and knows nothing of shared memory or RPC. Its messages are protobuf-es's: `decode` returns the
 * same as `fromBinary`, and `encodeInto` writes the same bytes as `toBinary`.
 */
export { decode, decodeRope } from "./decode.js";
export type { DecodeOptions } from "./decode.js";
export { encodeInto, encodeRope, sizeOf } from "./encode.js";
export type { Encodable, EncodeOptions, RopeOptions } from "./encode.js";
export type { FixedArray } from "./wire/packed.js";
export { packed, typedList } from "./wire/packed.js";
export type { Rope, Span } from "./rope/rope.js";
export { joinRope } from "./rope/rope.js";
export type { FieldViewOf, ListView, MapView, MessageView, OneofViewOf, ViewOf, ViewOptions } from "./view/view.js";
export { isViewFieldSet, view } from "./view/view.js";
