/**
 * The layout of a frame, the unit in a ring or on a socket. See docs/internals/protocol.md.
 *
 *    0 ┌──────────────────────────────┐
 *      │ byteLength        u32        │ header included, padding (to 8) not
 *    4 │ kind u8 · flags u8           │
 *    6 │ code              u16        │ REQUEST, METHOD: method id · RESPONSE, END, RESET: status code (0 = ok)
 *    8 │ streamId          u32        │ low 16 bits: slot, high 16 bits: generation of that slot
 *   12 │ argument          u32        │ REQUEST: timeout in ms, 0 = none · RESPONSE, END: bytes of metadata that are headers
 *      │                              │ CREDIT: bytes granted
 *   16 │ metadataLength    u32        │
 *   20 │ messageLength     u32        │ of the whole message, however many fragments it comes in
 *   24 │ fragmentLength    u32        │ bytes of the message that this frame brings
 *   28 │ spanCount         u32        │ entries of the splice table; 0 unless spans were negotiated
 *   32 ├──────────────────────────────┤
 *      │ metadata                     │
 *      ├──────────────────────────────┤
 *      │ splice table                 │ 24 bytes each, see SpanEntry; padded before it to a multiple of 4
 *      ├──────────────────────────────┤
 *      │ the fragment, or with        │
 *      │ inBlock: unit u32,           │ the arena block that holds it
 *      │          generation u32      │
 *      └──────────────────────────────┘
 */
export const FRAME_HEADER_BYTES = 32;
export const BLOCK_REFERENCE_BYTES = 8;

/** Indices of the header's fields, in 32-bit words. */
export const FIELD = {
  byteLength: 0,
  kindFlagsCode: 1,
  streamId: 2,
  argument: 3,
  metadataLength: 4,
  messageLength: 5,
  fragmentLength: 6,
  spanCount: 7,
} as const;

export const KIND = {
  /**
   * Opens a stream: method, deadline, metadata. With `endStream` also its only message, or that message's first
   * fragment.
   */
  request: 1,
  /** Answers a call with status, metadata and its only message, or that message's first fragment. */
  response: 2,
  /** The next fragment of the current message, or, if there is none, a message of a stream or its first fragment. */
  message: 3,
  /** Response headers of a stream, before its first message. */
  headers: 4,
  /** Ends this direction of a stream; from the server with status and trailers. */
  end: 5,
  /** The sender abandons the stream, and reads or sends nothing more for it. */
  reset: 6,
  /** Grants the sender of a stream more bytes. */
  credit: 7,
  /** The sender accepts no new streams on this connection. */
  goAway: 8,
  ping: 9,
  pong: 10,
  /** Assigns the number `code` to the method whose path ("/package.Service/Method") is the frame's metadata. */
  method: 11,
  /** Releases a block of the receiver's that an earlier frame named as `returned`. Metadata: unit and generation. */
  release: 12,
  /** The sender is waiting for blocks, so the receiver should collect leases that only garbage holds. */
  starved: 13,
  /** No frame will name the descriptor with the number `argument`, because its message was discarded. */
  dropRegion: 14,
} as const;

export const FLAG = {
  /** This is the last message of this direction of the stream. */
  endStream: 1,
  /** The fragment lies in an arena block. */
  inBlock: 2,
  /** More fragments of this message follow. */
  more: 4,
  /** On a stream socket: the fragment follows directly after the frame, and is not counted in its length. */
  follows: 8,
} as const;

/**
 * An entry of the splice table: bytes of the message that lie elsewhere. The other bytes of the message, its inline
 * part, come as fragments in frames.
 */
export interface SpanEntry {
  /** The position of the bytes in the joined message. */
  position: number;
  byteLength: number;
  /**
   * The block's first unit in the sender's arena or, with `SPAN.returned`, in the receiver's. With `SPAN.region`, the
   * number of the descriptor.
   */
  unit: number;
  generation: number;
  /** The offset of the bytes in the block or region. */
  offset: number;
  flags: number;
}

export const SPAN = {
  /** The block is the receiver's own: it sent the block, and the sender of this frame still holds it. */
  returned: 1,
  /** With `returned`: the sender of this frame gives up its hold. Without `given`, a `release` frame will follow. */
  given: 2,
  /** The bytes lie in a region of their own, whose descriptor came over the control socket. */
  region: 4,
} as const;

export const SPAN_ENTRY_BYTES = 24;

/** The offset of the splice table after metadata that ends at `offset`. */
export function tableOffset(offset: number): number {
  return (offset + 3) & -4;
}

/** The most spans of one message. Further large values travel in the inline part. */
export const SPANS_MAX = 64;

/** The largest frame. The reader copies frames to scratch memory of a few times this size. */
export const FRAME_BYTES_MAX = 32768;
/** The largest fragment that travels in the ring. A larger one goes into an arena block. */
export const INLINE_BYTES_MAX = 16384;
/** The largest fragment in an arena block, so that the work for one frame is bounded. */
export const BLOCK_FRAGMENT_BYTES_MAX = 1 << 20;
/** The largest encoded status of a failed call. */
export const STATUS_BYTES_MAX = 1 << 20;
/** The longest path of a method. */
export const PATH_BYTES_MAX = 1024;
/** The largest metadata of a frame. Together with the largest inline fragment, it fits into a frame. */
export const METADATA_BYTES_MAX = FRAME_BYTES_MAX - INLINE_BYTES_MAX - FRAME_HEADER_BYTES;

/** The largest single value: 2 GiB less a margin for the rest of its message. */
export const PAYLOAD_BYTES_MAX = 2 ** 31 - 65536;
/** The largest message: protobuf's own limit. */
export const MESSAGE_BYTES_MAX = 2 ** 31 - 1;

/** The most methods that a client may define on one connection. */
export const METHODS_MAX = 4096;

/**
 * The credit that a message of a stream costs besides its length, so that the number of waiting messages is bounded.
 */
export const MESSAGE_COST_BYTES = 128;
/** The smallest and the largest window of a stream, in bytes. */
export const STREAM_WINDOW_BYTES_MIN = 1024;
export const STREAM_WINDOW_BYTES_MAX = 1 << 30;

export const SLOT_BITS = 16;
export const SLOTS_MAX = 1 << SLOT_BITS;

export function packKindFlagsCode(kind: number, flags: number, code: number): number {
  return kind | (flags << 8) | (code << 16);
}

export function writeUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

export function readUint32(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}
