/** Writes a frame's header at the carrier's index; what belongs behind it is there already. */
import type { Carrier } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import { FIELD, packKindFlagsCode } from "../wire/frame.js";

/** A message on its way: all that its first frame says. */
export interface Outgoing {
  readonly kind: number;
  readonly flags: number;
  readonly code: number;
  readonly streamId: number;
  readonly argument: number;
  readonly metadata: Uint8Array | undefined;
  readonly codec: MessageCodec | undefined;
  readonly message: unknown;
  readonly writeMaxBytes: number;
  /** The call, for messages about bytes that it took. */
  readonly label: string;
}

/** Writes the header, and commits the frame. */
export function commitFrame(
  carrier: Carrier,
  kind: number,
  flags: number,
  code: number,
  streamId: number,
  argument: number,
  metadataLength: number,
  messageLength: number,
  fragmentLength: number,
  spanCount: number,
  byteLength: number,
): void {
  const words = carrier.ringWords;
  const at = carrier.index >> 2;
  words[at + FIELD.byteLength] = byteLength;
  words[at + FIELD.kindFlagsCode] = packKindFlagsCode(kind, flags, code);
  words[at + FIELD.streamId] = streamId;
  words[at + FIELD.argument] = argument;
  words[at + FIELD.metadataLength] = metadataLength;
  words[at + FIELD.messageLength] = messageLength;
  words[at + FIELD.fragmentLength] = fragmentLength;
  words[at + FIELD.spanCount] = spanCount;
  carrier.commit(byteLength);
}
