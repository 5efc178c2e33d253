import type { MessageCodec } from "../codec/codec.js";

/** The codec of messages that were encoded before. */
export const encodedBytes: MessageCodec = {
  ownsInline: true,
  encodeInto(message, target, offset, limit) {
    const bytes = message as Uint8Array;
    if (bytes.length > limit - offset) return -1 - bytes.length;
    target.set(bytes, offset);
    return bytes.length;
  },
  encode: (message) => ({ inline: message as Uint8Array, spans: [], byteLength: (message as Uint8Array).length }),
  decode: (input, offset, byteLength) => input.slice(offset, offset + byteLength),
};
