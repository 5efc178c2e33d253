/**
 * The streams of a client's connection: opens them, sends their frames, and passes on the frames that only streams
 * have. Unary calls do not pass through here. The slots belong to the connection (CALL-1). A stream has a slot from its
 * start until it is released.
 */
import type { StreamResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, ReceivedFrame } from "../../carrier/carrier.js";
import type { MessageCodec } from "../../codec/codec.js";
import { UNBOUNDED } from "../../memory/kept/kept-bytes.js";
import { FLAG, KIND } from "../../wire/frame.js";
import type { ClientCall } from "./client-call.js";
import type { ClientMethod } from "./client-method.js";
import type { StreamCallRequest } from "./call-request.js";
import { requestMetadata } from "./call-request.js";
import type { ClientLimits } from "./client-owner.js";
import type { ClientStreamHost } from "./client-stream.js";
import { ClientStream } from "./client-stream.js";
import { serializeError } from "../errors.js";
import { encodeSmall } from "../../send/message-encoder.js";
import type { SendQueue } from "../../send/send-queue.js";
import { KEPT } from "../../send/send-queue.js";

/** What a connection does for its streams. */
export interface StreamSlots {
  take(): ClientCall;
  /** Frees the slot of a stream that is over. */
  release(streamId: number): void;
  /** Defines the method on the connection unless the server knows it already. */
  define(method: ClientMethod): void;
  /** The stream's first frame has left. */
  requested(streamId: number): void;
}

export class ClientStreams implements ClientStreamHost {
  /** Number of open streams. */
  open = 0;
  private readonly carrier: Carrier;
  private readonly sendQueue: SendQueue;
  private readonly limits: ClientLimits;
  private readonly slots: StreamSlots;

  constructor(carrier: Carrier, sendQueue: SendQueue, limits: ClientLimits, slots: StreamSlots) {
    this.carrier = carrier;
    this.sendQueue = sendQueue;
    this.limits = limits;
    this.slots = slots;
  }

  /** Opens a stream. There must be a free slot. @param refuse called if the stream cannot be opened, or fails later */
  start(
    request: StreamCallRequest,
    resolve: (response: StreamResponse) => void,
    refuse: (error: ConnectError) => void,
  ): void {
    const { method, header } = request;
    const { windows, readMaxBytes } = this.limits;
    if (windows === undefined)
      return refuse(
        new ConnectError(
          `${method.path} is a streaming method; the server's version of isthmus knows unary calls only`,
          Code.Unimplemented,
        ),
      );
    let metadata: Uint8Array | undefined;
    try {
      metadata = header === undefined ? undefined : requestMetadata(header);
    } catch (error) {
      return refuse(serializeError(error, "request", method.path));
    }
    const call = this.slots.take();
    const options = {
      codec: method.output,
      receivePolicy: method.receivePolicy,
      readMaxBytes,
      windowBytes: windows.own,
      spanSource: this.carrier.spanSource,
      isSingle: method.method.methodKind === "client_streaming",
      statusFollows: true,
      kept: UNBOUNDED,
    };
    call.stream = new ClientStream(this, request, {
      streamId: call.streamId,
      metadata,
      options,
      peerWindowBytes: windows.peer,
      resolve,
      reject: refuse,
    });
    this.open++;
    call.stream.start();
  }

  /** Passes on a frame that only streams have. */
  onFrame(stream: ClientStream, frame: ReceivedFrame): void {
    if (frame.kind === KIND.credit) stream.onCredit(frame.argument);
    else if (frame.kind === KIND.headers) stream.onHeaders(frame);
    else stream.onFinal(frame);
  }

  // Called by streams.

  sendRequest(
    { streamId, method, metadata }: ClientStream,
    codec: MessageCodec | undefined,
    message: unknown,
    timeoutMs: number | undefined,
  ): boolean {
    this.slots.define(method);
    const argument = timeoutMs === undefined ? 0 : Math.ceil(timeoutMs);
    const flags = codec === undefined ? 0 : FLAG.endStream;
    const isOut =
      KEPT !==
      this.sendQueue.send({
        kind: KIND.request,
        flags,
        code: method.id,
        streamId,
        argument,
        metadata,
        codec,
        message,
        writeMaxBytes: this.limits.writeMaxBytes,
        label: method.path,
      });
    if (isOut) this.slots.requested(streamId);
    return isOut;
  }

  encodeSmall({ method }: ClientStream, message: unknown): Uint8Array | undefined {
    return encodeSmall(method.input, message);
  }

  sendMessage({ streamId, method }: ClientStream, message: unknown): number {
    return this.sendQueue.send({
      kind: KIND.message,
      flags: 0,
      code: 0,
      streamId,
      argument: 0,
      metadata: undefined,
      codec: method.input,
      message,
      writeMaxBytes: this.limits.writeMaxBytes,
      label: method.path,
    });
  }

  sendEnd({ streamId }: ClientStream): void {
    this.sendQueue.send({
      kind: KIND.end,
      flags: FLAG.endStream,
      code: 0,
      streamId,
      argument: 0,
      metadata: undefined,
      codec: undefined,
      message: undefined,
      writeMaxBytes: 0,
      label: "",
    });
  }

  grant({ streamId }: ClientStream, bytes: number): void {
    this.sendQueue.grant(streamId, bytes);
  }

  drop({ streamId }: ClientStream): "unsent" | "sent" {
    return this.sendQueue.drop(streamId);
  }

  reset({ streamId }: ClientStream, code: Code): void {
    this.sendQueue.sendControl(KIND.reset, code, streamId, 0);
  }

  release({ streamId }: ClientStream): void {
    this.slots.release(streamId);
  }
}
