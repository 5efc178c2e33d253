/** A message that is to be sent, as the RPC core hands it to the send queue. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { MessageCodec } from "../codec/codec.js";
import { MESSAGE_BYTES_MAX } from "../wire/frame.js";
import type { FrameHead } from "./frame-writer.js";

/** A message that is to be sent, and all that its first frame says. */
export interface Outgoing extends FrameHead {
  readonly metadata: Uint8Array | undefined;
  readonly codec: MessageCodec | undefined;
  readonly message: unknown;
  readonly writeMaxBytes: number;
  /** Names the call in errors about bytes that it took. */
  readonly label: string;
}

/** A frame without a message. */
export function frameOnly(
  kind: number,
  code: number,
  streamId: number,
  argument: number,
  metadata: Uint8Array | undefined,
): Outgoing {
  return {
    kind,
    flags: 0,
    code,
    streamId,
    argument,
    metadata,
    codec: undefined,
    message: undefined,
    writeMaxBytes: 0,
    label: "",
  };
}

/** @throws ConnectError `ResourceExhausted` if the message is too large */
export function checkSize(byteLength: number, writeMaxBytes: number): void {
  if (byteLength <= writeMaxBytes) return;
  const limit =
    writeMaxBytes === MESSAGE_BYTES_MAX
      ? `the limit of ${MESSAGE_BYTES_MAX} bytes (2 GiB − 1)`
      : `configured writeMaxBytes ${writeMaxBytes}`;
  throw new ConnectError(`message size ${byteLength} is larger than ${limit}`, Code.ResourceExhausted);
}
