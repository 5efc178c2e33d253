/**
 * A client's streaming call, from its first frame to its end. `ClientConnection` finds it by its slot and passes it its
 * frames.
 *
 * STREAM-C  A stream ends exactly once: by the server's final frame, or by `cancel` for any other reason, which tells
 *           the server. Then its slot is free. What the server sent can still be pulled unless this side gave up.
 */
import type { DescMethodStreaming } from "@bufbuild/protobuf";
import type { StreamResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ReceivedFrame } from "../../carrier/carrier.js";
import type { MessageCodec } from "../../codec/codec.js";
import { Violation } from "../../memory/shm/violation.js";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { FLAG, KIND, STATUS_BYTES_MAX } from "../../wire/frame.js";
import { decodeHeaders } from "../../wire/metadata.js";
import { onAbortOf } from "../abort.js";
import type { StreamCallRequest } from "./call-request.js";
import type { ClientMethod } from "./client-method.js";
import { timedOut } from "../deadline.js";
import { abortError, connectErrorOf, decodeError, noMemory, rememberParts, serializeError } from "../errors.js";
import { Reassembler, takeMetadata, takeFragment } from "../inbound.js";
import { encodedBytes } from "../../send/encoded-bytes.js";
import type { MessageQueueOptions, StreamReaderOwner } from "../stream/stream-reader.js";
import { StreamReader } from "../stream/stream-reader.js";
import type { MessageSource } from "../stream/stream-writer.js";
import { StreamWriter } from "../stream/stream-writer.js";
import { keepsMessages, resumed } from "./request-messages.js";
import type { ResponseStream } from "./response-messages.js";
import { ResponseMessages } from "./response-messages.js";

/** What a connection does for its streams. */
export interface ClientStreamHost {
  /**
   * Sends the first frame, with or without the only message.
   * @param codec of the message; undefined if there is no message
   * @returns false if the frame is kept until there is room
   */
  sendRequest(
    stream: ClientStream,
    codec: MessageCodec | undefined,
    message: unknown,
    timeoutMs: number | undefined,
  ): boolean;
  /** As `encodeSmall` of `send/`. */
  encodeSmall(stream: ClientStream, message: unknown): Uint8Array | undefined;
  /** As `SendQueue.send`. */
  sendMessage(stream: ClientStream, message: unknown): number;
  sendEnd(stream: ClientStream): void;
  grant(stream: ClientStream, bytes: number): void;
  /** Discards what has not been sent, as `SendQueue.drop` does. */
  drop(stream: ClientStream): "unsent" | "sent";
  reset(stream: ClientStream, code: Code): void;
  /** Frees the slot of a stream that is over. */
  release(stream: ClientStream): void;
}

/** How a connection opens a stream. */
export interface StreamOpening {
  readonly streamId: number;
  /** The encoded request headers; undefined if there are none. */
  readonly metadata: Uint8Array | undefined;
  /** For the messages of the response. */
  readonly options: MessageQueueOptions;
  /** The credit that the server grants from the start. */
  readonly peerWindowBytes: number;
  readonly resolve: (response: StreamResponse) => void;
  readonly reject: (error: ConnectError) => void;
}

/** How a stream ended, from the first frame of its end. */
interface Final {
  readonly isMessage: boolean;
  /** The server refused the call before there was a stream. */
  readonly isRefusal: boolean;
  readonly code: number;
  readonly metadata: Uint8Array | undefined;
  readonly headerLength: number;
}

const NO_BYTES: Uint8Array = new Uint8Array(0);
const nothing = () => undefined;

/** Cancels streams whose messages were garbage-collected: they can no longer be pulled. */
const forgotten = new FinalizationRegistry<ClientStream>((stream) =>
  stream.cancel(new ConnectError("the stream was abandoned by its reader", Code.Canceled)),
);

export class ClientStream implements MessageSource, ResponseStream, StreamReaderOwner {
  readonly host: ClientStreamHost;
  readonly method: ClientMethod;
  readonly streamId: number;
  readonly metadata: Uint8Array | undefined;
  /** The first frame has been passed to the connection. */
  private requested = false;
  /** The first frame has not left yet. */
  private requestKept = false;
  private readonly reader: StreamReader;
  private readonly writer: StreamWriter;
  private readonly iterator: AsyncIterator<unknown>;
  private resolve: (response: StreamResponse) => void;
  private reject: (error: ConnectError) => void;
  private responded = false;
  private header: Uint8Array | undefined;
  private headersCame = false;
  private readonly trailer = new Headers();
  private over = false;
  /** The server has ended the stream, but its messages have not all been pulled. Signal and deadline still apply. */
  private lingers = false;
  private readonly deadline: number | undefined;
  private readonly timer: NodeJS.Timeout | undefined;
  private readonly signal: AbortSignal | undefined;
  private readonly onAbort: (() => void) | undefined;
  private final: Final | undefined;
  private finalReassembler: Reassembler | undefined;

  constructor(host: ClientStreamHost, request: StreamCallRequest, opening: StreamOpening) {
    const { method, input, timeoutMs, signal } = request;
    this.host = host;
    this.method = method;
    this.streamId = opening.streamId;
    this.iterator = input;
    this.metadata = opening.metadata;
    this.resolve = opening.resolve;
    this.reject = opening.reject;
    this.reader = new StreamReader(opening.options, this);
    this.writer = new StreamWriter(this, opening.peerWindowBytes);
    if (timeoutMs !== undefined) {
      this.deadline = nowMs() + timeoutMs;
      this.timer = setTimeout(() => this.cancel(timedOut()), timeoutMs);
    }
    if (signal !== undefined) {
      this.signal = signal;
      this.onAbort = () => this.cancel(abortError(signal));
      onAbortOf(signal, this.onAbort);
    }
  }

  /** Whether the first frame has left. */
  get isRequested(): boolean {
    return this.requested && !this.requestKept;
  }

  /** Sends the request, and starts pulling the user's messages. */
  start(): void {
    if (this.method.method.methodKind === "server_streaming") void this.sendSingle();
    else this.open(this.iterator);
  }

  private open(iterator: AsyncIterator<unknown>): void {
    this.request(undefined, undefined);
    if (!this.over) this.writer.start(iterator);
  }

  private request(codec: MessageCodec | undefined, message: unknown): void {
    this.requested = true;
    const leftMs = this.deadline === undefined ? undefined : Math.max(this.deadline - nowMs(), 1);
    if (this.host.sendRequest(this, codec, message, leftMs)) return;
    this.requestKept = true;
    this.writer.hold();
  }

  /**
   * Sends the only message of a request together with its first frame. The server reports any other number of messages.
   *
   * SUBTLE: only the pull after the message shows that it was the only one. By then its memory belongs to its user
   * again (BORROW-1). So it is encoded before that pull or, if that would copy much, sent before.
   */
  private async sendSingle(): Promise<void> {
    const { iterator } = this;
    const { input } = this.method;
    let isSending = false;
    try {
      const first = await iterator.next();
      if (this.over) return;
      let bytes: Uint8Array | undefined;
      if (first.done !== true && !keepsMessages(iterator)) {
        isSending = true;
        bytes = this.host.encodeSmall(this, first.value);
        isSending = false;
        if (bytes === undefined) return this.open(resumed([first.value], iterator));
      }
      const second = first.done === true ? first : await iterator.next();
      if (this.over) return;
      if (first.done === true) return this.open(resumed([], iterator));
      if (second.done !== true) return this.open(resumed([first.value, second.value], iterator));
      isSending = true;
      if (bytes === undefined) this.request(input, first.value);
      else this.request(encodedBytes, bytes);
    } catch (error) {
      this.requested &&= !isSending;
      this.onBroken(error, isSending);
    }
  }

  // Called by the writer.

  sendMessage(message: unknown): number {
    return this.host.sendMessage(this, message);
  }

  onDrained(): void {
    this.host.sendEnd(this);
  }

  onBroken(error: unknown, isSending: boolean): void {
    this.cancel(isSending ? serializeError(error, "request", this.method.path) : connectErrorOf(error, Code.Internal));
  }

  // Called by the connection.

  onSent(messageLength: number): void {
    if (!this.requestKept) return this.writer.onSent(messageLength);
    this.requestKept = false;
    this.writer.release();
  }

  onCredit(bytes: number): void {
    this.writer.onCredit(bytes);
  }

  onHeaders(frame: ReceivedFrame): void {
    if (this.headersCame || this.reader.began || this.final !== undefined)
      throw new Violation("STREAM-7", "headers after headers, or after messages");
    this.headersCame = true;
    this.header = takeMetadata(frame);
    this.respond();
  }

  onMessage(frame: ReceivedFrame): void {
    // The only message of the response may arrive in fragments. Any other incomplete message was dropped when the
    // stream ended.
    if (this.final !== undefined && !(this.final.isMessage && this.reader.isAssembling)) {
      if (this.finalReassembler === undefined) throw new Violation("STREAM-8", "a message after the stream's end");
      if (this.finalReassembler.add(frame)) this.finish(this.finalReassembler.bytes);
      return;
    }
    this.onTaken(this.reader.take(frame));
  }

  /** Continues after the reader has taken a frame. @param error why the call fails */
  private onTaken(error: ConnectError | undefined): void {
    if (error !== undefined) this.cancel(error, true);
    else if (this.final === undefined) this.respond();
    else if (!this.reader.isAssembling) this.finish();
  }

  onFilled(): void {
    if (this.finalReassembler !== undefined) {
      if (this.finalReassembler.filledUp()) this.finish(this.finalReassembler.bytes);
      return;
    }
    this.onTaken(this.reader.onFilled());
  }

  /** Takes the first frame of the stream's end: an `end`, or a `response` with the only message. */
  onFinal(frame: ReceivedFrame): void {
    if (this.final !== undefined) throw new Violation("STREAM-2", "a second end of one stream");
    const { code } = frame;
    const isMessage = frame.kind === KIND.response && code === 0;
    if (frame.argument > frame.metadataLength) throw new Violation("FRAME-7", "headers reach past the metadata");
    if (isMessage && (this.headersCame || this.reader.began))
      throw new Violation("STREAM-7", "a response after headers or messages");
    if (code === 0 && !isMessage && this.reader.isAssembling)
      throw new Violation("STREAM-9", "a stream ended within a message");
    if (!isMessage && frame.messageLength > (code === 0 ? 0 : STATUS_BYTES_MAX))
      throw new Violation("STATUS-1", `a status of ${frame.messageLength} bytes`);
    this.final = {
      isMessage,
      isRefusal: frame.kind === KIND.response && code !== 0,
      code,
      metadata: takeMetadata(frame),
      headerLength: frame.argument,
    };
    if (isMessage) return this.onTaken(this.reader.takeOnly(frame));
    if ((frame.flags & FLAG.more) !== 0 || frame.following) {
      try {
        this.finalReassembler = Reassembler.start(frame, undefined, this.method.receivePolicy);
      } catch (error) {
        if (error instanceof Violation) throw error;
        return this.cancel(noMemory(frame.messageLength, error));
      }
      if (this.finalReassembler.add(frame)) this.finish(this.finalReassembler.bytes);
      return;
    }
    this.finish(takeFragment(frame));
  }

  /** Ends the stream as the server says. */
  private finish(status: Uint8Array = NO_BYTES): void {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the final frame has set it
    const { code, metadata, headerLength, isMessage, isRefusal } = this.final!;
    if (headerLength > 0) this.header ??= metadata?.subarray(0, headerLength);
    const trailer = metadata?.subarray(headerLength);
    let error: ConnectError | undefined;
    if (code !== 0) {
      const all = this.header === undefined ? trailer : Buffer.concat([this.header, trailer ?? NO_BYTES]);
      error = decodeError(code, status, all);
      if (isRefusal && this.header !== undefined) rememberParts(error, this.header, trailer);
    }
    decodeHeaders(trailer).forEach((value, name) => this.trailer.append(name, value));
    this.host.drop(this);
    if (!isMessage) this.reader.end(error);
    this.endHere(
      undefined,
      !isRefusal && !this.reader.isAtEnd && (this.signal !== undefined || this.timer !== undefined),
    );
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a refusal has a code
    if (isRefusal) this.settleFailed(error!);
    else this.respond();
    this.host.release(this);
  }

  /** The server cannot send the rest. */
  onReset(error: ConnectError): void {
    this.host.drop(this);
    this.endHere(error);
    this.reader.end(error);
    this.settleFailed(error);
    this.host.release(this);
  }

  /** The connection has ended. Messages that have arrived can still be pulled. */
  onLost(error: ConnectError): void {
    if (this.over) return;
    this.endHere(error);
    this.reader.end(error);
    this.settleFailed(error);
    this.host.release(this);
  }

  /**
   * Ends the stream from this side.
   * @param isTaken whether messages that have arrived can be pulled before the error; otherwise they are dropped
   */
  cancel(error: ConnectError, isTaken = false): void {
    if (this.lingers) {
      this.unlisten();
      this.reader.drop(error);
    }
    if (this.over) return;
    this.over = true;
    // SUBTLE: comes before the end of the iterable, after which the memory of its messages belongs to its user again
    // (BORROW-1).
    const isUnknown = this.host.drop(this) === "unsent" && this.requestKept;
    this.endHere(error);
    if (this.requested && !isUnknown) this.host.reset(this, error.code);
    if (isTaken) {
      this.reader.end(error);
      this.respond();
    } else {
      this.reader.drop(error);
      this.settleFailed(error);
    }
    this.host.release(this);
  }

  // Called by the reader.

  grant(bytes: number): void {
    this.host.grant(this, bytes);
  }

  onUnreadable(error: ConnectError): void {
    this.cancel(error, true);
  }

  // Called by the user.

  next(reading: ResponseMessages): Promise<IteratorResult<unknown, undefined>> {
    const result = this.reader.next(reading);
    if (this.lingers && this.reader.isAtEnd) this.unlisten();
    return result;
  }

  /**
   * The user wants no more messages. Ends like a complete stream, but tells the server. @param error the reason that
   * the user gave
   */
  leave(error?: ConnectError): void {
    // The request's iterable ends without an error.
    if (error === undefined && !this.over) void this.writer.stop(undefined);
    this.cancel(error ?? new ConnectError("the reader left the stream before its end", Code.Canceled));
    this.reader.drop(undefined);
    this.reader.endScope();
  }

  /** @param lingers whether signal and deadline still apply */
  private endHere(error: ConnectError | undefined, lingers = false): void {
    this.over = true;
    this.lingers = lingers;
    if (lingers) this.timer?.unref();
    else this.unlisten();
    void this.writer.stop(error);
    // The writer does not know the iterator before it has started.
    if (!this.requested) void this.writer.close(this.iterator, error);
    this.finalReassembler = undefined;
  }

  private unlisten(): void {
    this.lingers = false;
    clearTimeout(this.timer);
    if (this.onAbort !== undefined) this.signal?.removeEventListener("abort", this.onAbort);
    forgotten.unregister(this);
  }

  private settleFailed(error: ConnectError): void {
    if (this.responded) return;
    this.responded = true;
    const { reject } = this;
    this.resolve = this.reject = nothing;
    reject(error);
  }

  private respond(): void {
    if (this.responded) return;
    this.responded = true;
    const { resolve } = this;
    this.resolve = this.reject = nothing;
    const method = this.method.method as DescMethodStreaming;
    const message = new ResponseMessages(this);
    if (!this.over || this.lingers) forgotten.register(message, this, this);
    resolve({
      stream: true,
      service: method.parent,
      method,
      header: decodeHeaders(this.header),
      trailer: this.trailer,
      message: message as StreamResponse["message"],
    });
  }
}
