/**
 * `isthmus/codec`: protobuf-es messages to wire bytes and back, in memory that the caller gives.
 *
 * Usable on its own; knows nothing of shared memory or RPC. Messages are protobuf-es's own: what `decode` returns is
 * what `fromBinary` returns, and what `encodeInto` writes is what `toBinary` returns.
 */
export { decode, decodeRope, encodeInto, encodeRope, sizeOf } from "./codec-api.js";
export type { DecodeOptions, EncodeOptions, RopeOptions } from "./codec-api.js";
export type { Rope, Span } from "./rope.js";
export { joinRope } from "./rope.js";
