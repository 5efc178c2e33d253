/** Everything that a server sends for the calls of one connection. */
import type { ConnectError } from "@connectrpc/connect";
import { encodedBytes } from "../../send/encoded-bytes.js";
import type { SendQueue } from "../../send/send-queue.js";
import { FLAG, KIND } from "../../wire/frame.js";
import { encodeError } from "../outgoing-error.js";
import type { CallContext } from "./context.js";
import type { ServerMethod } from "./server-method.js";

/** A call that is answered. */
export interface AnsweredCall {
  readonly streamId: number;
  readonly served: ServerMethod;
}

export class Answers {
  private readonly sendQueue: SendQueue;
  private readonly isClosed: () => boolean;

  constructor(sendQueue: SendQueue, isClosed: () => boolean) {
    this.sendQueue = sendQueue;
    this.isClosed = isClosed;
  }

  /** Sends the response of a call whose answer is one message. @throws what the codec throws */
  send(
    { streamId, served }: AnsweredCall,
    metadata: Uint8Array | undefined,
    headerLength: number,
    message: unknown,
  ): void {
    this.sendQueue.send({
      kind: KIND.response,
      flags: FLAG.endStream,
      code: 0,
      streamId,
      argument: headerLength,
      metadata,
      codec: served.output,
      message,
      writeMaxBytes: served.options.writeMaxBytes,
      label: served.path,
    });
  }

  /** Sends the response headers of a stream. Returns as `SendQueue.send` does. */
  sendHeaders({ streamId }: AnsweredCall, metadata: Uint8Array): number {
    return this.sendQueue.send({
      kind: KIND.headers,
      flags: 0,
      code: 0,
      streamId,
      argument: 0,
      metadata,
      codec: undefined,
      message: undefined,
      writeMaxBytes: 0,
      label: "",
    });
  }

  /** Sends a message of a stream. Returns and throws as `SendQueue.send` does. */
  sendMessage({ streamId, served }: AnsweredCall, message: unknown): number {
    return this.sendQueue.send({
      kind: KIND.message,
      flags: 0,
      code: 0,
      streamId,
      argument: 0,
      metadata: undefined,
      codec: served.output,
      message,
      writeMaxBytes: served.options.writeMaxBytes,
      label: served.path,
    });
  }

  /** Sends the end of a stream with status OK. */
  sendEnd({ streamId }: AnsweredCall, metadata: Uint8Array | undefined, headerLength: number): void {
    this.sendQueue.send({
      kind: KIND.end,
      flags: FLAG.endStream,
      code: 0,
      streamId,
      argument: headerLength,
      metadata,
      codec: undefined,
      message: undefined,
      writeMaxBytes: 0,
      label: "",
    });
  }

  /** Grants the client of a stream more bytes. */
  grant({ streamId }: AnsweredCall, bytes: number): void {
    this.sendQueue.grant(streamId, bytes);
  }

  /** Discards what is left to send for a stream, as `SendQueue.drop` does. */
  drop({ streamId }: AnsweredCall): "unsent" | "sent" {
    return this.sendQueue.drop(streamId);
  }

  /** Sends an error. Never throws, whatever the error is. @param kind of the frame that the client expects */
  sendError(
    streamId: number,
    error: ConnectError,
    context: CallContext | undefined,
    kind: number = KIND.response,
    withHeaders = true,
  ): void {
    if (this.isClosed()) return;
    const { code, status, metadata, headerLength } = encodeError(error, context, withHeaders);
    this.sendQueue.send({
      kind,
      flags: FLAG.endStream,
      code,
      streamId,
      argument: headerLength,
      metadata,
      codec: encodedBytes,
      message: status,
      writeMaxBytes: status.length,
      label: "",
    });
  }
}
