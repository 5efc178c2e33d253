/**
 * A codec for `Payload` without protobuf: what is left of a call's time with it is the path's.
 *
 * ```
 * | 8 bytes: id, little endian | data … |
 * ```
 */
import type { MessageCodec, Rope } from "../../src/index.js";
import type { Payload } from "../proto/bench_pb.js";

const idBytes = 8;

export function createPassthroughCodec(): MessageCodec {
  // Views are made once per buffer: a codec sees few, many times each.
  let viewed: ArrayBufferLike | null = null;
  let view: DataView = new DataView(new ArrayBuffer(0));
  const viewOf = (bytes: Uint8Array): DataView => {
    if (bytes.buffer !== viewed) {
      viewed = bytes.buffer;
      view = new DataView(bytes.buffer);
    }
    return view;
  };

  return {
    encodeInto(message: unknown, target: Uint8Array, offset: number, limit: number): number {
      const { id, data } = message as Payload;
      const byteLength = idBytes + data.length;
      if (byteLength > limit - offset) return -1 - byteLength;
      viewOf(target).setBigUint64(target.byteOffset + offset, id, true);
      target.set(data, offset + idBytes);
      return byteLength;
    },

    encode(message: unknown): Rope {
      const { id, data } = message as Payload;
      const inline = new Uint8Array(idBytes);
      new DataView(inline.buffer).setBigUint64(0, id, true);
      return { inline, spans: [{ position: idBytes, bytes: data }], byteLength: idBytes + data.length };
    },

    decode(input: Uint8Array, offset: number, byteLength: number, _isOwned: boolean, spans: Rope["spans"]): Payload {
      if (byteLength < idBytes) throw new RangeError(`a payload of ${byteLength} bytes has no id`);
      return {
        $typeName: "isthmus.bench.Payload",
        id: viewOf(input).getBigUint64(input.byteOffset + offset, true),
        // A Buffer's own `slice` would not copy.
        data:
          spans.length > 0
            ? spans[0].bytes
            : Uint8Array.prototype.slice.call(input, offset + idBytes, offset + byteLength),
      };
    },
  };
}
