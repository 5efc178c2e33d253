/**
 * `isthmus/codec`: protobuf-es messages to wire bytes and back, in memory that the caller gives.
 *
 * Usable on its own: it knows nothing of shared memory or RPC. Messages are protobuf-es's own: what `decode` returns is
 * what `fromBinary` returns, and what `encodeInto` writes is what `toBinary` returns.
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
