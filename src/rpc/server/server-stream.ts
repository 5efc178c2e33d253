/**
 * A server's call that has messages after its first frame, or a stream as its response, from its request to its end.
 *
 * STREAM-S  A stream ends exactly once: by `end` or `response` to the client, or silently if the client gave it up or
 *           is gone. Then the handler's signal aborts, its iterables end, and what it still sends is dropped. Leases
 *           end when the handler has settled, which may be later.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, ReceivedFrame } from "../../carrier/carrier.js";
import type { StreamWindows } from "../../carrier/handshake/link.js";
import type { KeptBytes } from "../../memory/kept/kept-bytes.js";
import { clearTimeout, setTimeout } from "../../os/timers.js";
import { KIND } from "../../wire/frame.js";
import { encodeMetadata, metadataComplaint } from "../../wire/metadata.js";
import type { Answers } from "./answers.js";
import type { Caller } from "./context.js";
import { CallContext } from "./context.js";
import { boundedTimeout, timedOut } from "../deadline.js";
import { exhausted, handlerError, serializeError } from "../errors.js";
import { adopt } from "../foreign.js";
import type { RequestGate } from "./gate.js";
import { askGate } from "./gate.js";
import { KEPT } from "../../send/send-queue.js";
import { responseMetadata } from "./server-call.js";
import type { ServerMethod, StreamAnswer } from "./server-method.js";
import type { Handlers, WaitingCall } from "./handlers.js";
import type { StreamReaderOwner } from "../stream/stream-reader.js";
import { StreamReader } from "../stream/stream-reader.js";
import type { MessageSource } from "../stream/stream-writer.js";
import { closeIterator, StreamWriter } from "../stream/stream-writer.js";

/** What a connection does for its streams. */
export interface ServerStreamHost {
  readonly carrier: Carrier;
  readonly options: Caller & {
    /** Defined if the connection has streams. */
    readonly windows: StreamWindows | undefined;
  };
  readonly answers: Answers;
  readonly handlers: Handlers;
  readonly kept: KeptBytes;
  /** Frees the slot of a stream that is over. */
  remove(stream: ServerStream): void;
}

export class ServerStream implements MessageSource, StreamReaderOwner, WaitingCall {
  private readonly connection: ServerStreamHost;
  readonly served: ServerMethod;
  readonly streamId: number;
  private readonly context: CallContext;
  private readonly reader: StreamReader;
  private readonly writer: StreamWriter;
  private readonly timer: NodeJS.Timeout | undefined;
  private answer: StreamAnswer | undefined;
  private headersSent = false;
  /** A message that waits until the headers have left. */
  private behindHeaders: { readonly message: unknown } | undefined;
  private done = false;
  /** Whether the call waits for a place, or the method's gate has not decided yet. */
  private isWaiting = false;
  /** The error that the call fails with even if its gate admits it. */
  private refusal: ConnectError | undefined;
  /** Whether the call has a place (HANDLER-1). */
  hasPlace = false;
  /** Length of the request's headers, in bytes (KEPT-1). */
  private readonly metadataBytes: number;
  /** Whether a message could not be received. Later frames are ignored. */
  private isBroken = false;
  /** Whether the handler has settled. */
  private settled = false;

  constructor(
    connection: ServerStreamHost,
    served: ServerMethod,
    streamId: number,
    metadata: Uint8Array | undefined,
    timeoutMs: number,
  ) {
    this.connection = connection;
    this.served = served;
    this.streamId = streamId;
    this.context = new CallContext(served, connection, metadata, timeoutMs);
    this.metadataBytes = metadata?.length ?? 0;
    connection.kept.take(this.metadataBytes);
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- without windows streams are refused
    const windows = connection.options.windows!;
    const options = {
      codec: served.input,
      receivePolicy: served.receivePolicy,
      readMaxBytes: served.options.readMaxBytes,
      windowBytes: windows.own,
      spanSource: connection.carrier.spanSource,
      isSingle: served.takesOne,
      statusFollows: false,
      kept: connection.kept,
    };
    this.reader = new StreamReader(options, this);
    this.writer = new StreamWriter(this, windows.peer);
    const timeout = boundedTimeout(timeoutMs);
    if (timeout !== undefined) this.timer = setTimeout(() => this.fail(timedOut()), timeout);
  }

  /** The call waits for a place. @param refusal the error that the call fails with even if the gate admits it */
  wait(refusal: ConnectError | undefined): void {
    this.refusal = refusal;
    this.isWaiting = true;
  }

  onPlace(): void {
    this.hasPlace = true;
    this.isWaiting = false;
    const { gate } = this.served;
    if (gate !== undefined) this.ask(gate, this.refusal);
    this.run();
  }

  /**
   * Asks the method's gate. `run` is called next. @param refusal the error that the call fails with even if it is
   * admitted
   */
  ask(gate: RequestGate, refusal: ConnectError | undefined): void {
    let isAnswered = false;
    askGate(gate, this.context, (error) => {
      isAnswered = true;
      const reason = error ?? refusal;
      if (reason !== undefined) return this.settleFailed(reason);
      if (!this.isWaiting) return;
      this.isWaiting = false;
      if (this.done) return this.settle();
      this.run();
    });
    this.isWaiting = !isAnswered;
  }

  get isOver(): boolean {
    return this.done;
  }

  /**
   * Calls the handler in an async context of its own (CONTEXT-2), once the gate has admitted the call. Errors of the
   * handler do not leave this function.
   */
  run(): void {
    if (this.done || this.isWaiting) return;
    let answer: StreamAnswer | PromiseLike<StreamAnswer>;
    let promise: Promise<StreamAnswer> | undefined;
    try {
      answer = this.served.open(this.reader, this.context);
      promise = adopt(answer);
    } catch (error) {
      return this.settleFailed(error);
    }
    if (promise === undefined) return this.onAnswer(answer as StreamAnswer);
    promise.then(
      (opened) => this.onAnswer(opened),
      (error: unknown) => this.settleFailed(error),
    );
  }

  private onAnswer(answer: StreamAnswer): void {
    let iterator: AsyncIterator<unknown>;
    try {
      iterator = answer.message[Symbol.asyncIterator]();
    } catch (error) {
      return this.settleFailed(error);
    }
    if (this.done) return void closeIterator(iterator, undefined).then(() => this.settle());
    this.answer = answer;
    if (this.served.answersOnce) void this.answerOnce(iterator);
    else this.writer.start(iterator);
  }

  private async answerOnce(iterator: AsyncIterator<unknown>): Promise<void> {
    try {
      const first = await iterator.next();
      if (first.done === true) throw new ConnectError("protocol error: missing output message", Code.Unimplemented);
      const second = await iterator.next();
      if (second.done !== true)
        throw new ConnectError("protocol error: received extra output message", Code.Unimplemented);
      this.respond(first.value);
      this.settle();
    } catch (error) {
      this.settleFailed(error);
    }
  }

  private settleFailed(error: unknown): void {
    this.fail(handlerError(error));
    this.settle();
  }

  /** The handler has settled, perhaps long after the call has ended. */
  private settle(): void {
    this.settled = true;
    if (!this.done) return;
    this.reader.endScope();
    this.leavePlace();
  }

  /** Gives the place up, if the call is over and its handler has settled (HANDLER-1). */
  private leavePlace(): void {
    if (!this.hasPlace) return;
    this.hasPlace = false;
    this.connection.kept.give(this.metadataBytes);
    this.connection.handlers.leave();
  }

  /** Responds with the only message. */
  private respond(message: unknown): void {
    if (this.done) return;
    try {
      this.addTrailers();
      const { metadata, headerLength } = responseMetadata(this.context, true);
      this.connection.answers.send(this, metadata, headerLength, message);
    } catch (error) {
      return this.fail(this.unsendable(error));
    }
    this.finish(undefined);
  }

  private unsendable(error: unknown): ConnectError {
    return serializeError(error, "response", this.served.path);
  }

  // Called by the writer.

  sendMessage(message: unknown): number {
    if (!this.headersSent) {
      this.headersSent = true;
      const header = this.context.responseHeaderIfAny;
      const metadata = header === undefined ? undefined : encodeMetadata(header);
      if (metadata !== undefined && metadata.length > 0) {
        const complaint = metadataComplaint(metadata.length);
        if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
        if (this.connection.answers.sendHeaders(this, metadata) === KEPT) {
          this.behindHeaders = { message };
          return KEPT;
        }
      }
    }
    return this.connection.answers.sendMessage(this, message);
  }

  onDrained(): void {
    this.settled = true;
    try {
      this.addTrailers();
      const { metadata, headerLength } = responseMetadata(this.context, !this.headersSent);
      this.connection.answers.sendEnd(this, metadata, headerLength);
    } catch (error) {
      return this.fail(this.unsendable(error));
    }
    this.finish(undefined);
  }

  onBroken(error: unknown, isSending: boolean): void {
    this.settled = !isSending;
    this.fail(isSending ? this.unsendable(error) : handlerError(error));
  }

  /** Adds the interceptors' trailers after the handler's. @throws whatever reading them throws */
  private addTrailers(): void {
    const trailer = this.answer?.trailer;
    if (trailer !== undefined && trailer !== this.context.responseTrailerIfAny)
      trailer.forEach((value, name) => this.context.responseTrailer.set(name, value));
  }

  // Called by the connection.

  /** Takes the request's only message. */
  onOnly(frame: ReceivedFrame): void {
    this.onBadMessage(this.reader.takeOnly(frame));
  }

  onMessage(frame: ReceivedFrame): void {
    if (this.isBroken) return;
    const { kept } = this.connection;
    // The messages that wait here are what is too much, so they are not left to a handler that does not read them.
    if (kept.isFull && !this.reader.isAssembling) return this.fail(exhausted(kept));
    this.onBadMessage(this.reader.take(frame));
  }

  onFilled(): void {
    if (!this.isBroken) this.onBadMessage(this.reader.onFilled());
  }

  // Called by the reader.

  grant(bytes: number): void {
    this.connection.answers.grant(this, bytes);
  }

  onUnreadable(): void {
    this.isBroken = true;
  }

  /** The handler gets the error after the messages that arrived before. Later frames are ignored. */
  private onBadMessage(error: ConnectError | undefined): void {
    if (error === undefined) return;
    this.isBroken = true;
    this.reader.end(error);
  }

  /** The client sends no more messages. */
  onEnd(): void {
    if (!this.isBroken) this.reader.onEnd();
  }

  onCredit(bytes: number): void {
    this.writer.onCredit(bytes);
  }

  /** The frame that was kept has left. */
  onSent(messageLength: number): void {
    const behind = this.behindHeaders;
    if (behind === undefined) return this.writer.onSent(messageLength);
    this.behindHeaders = undefined;
    let length: number;
    try {
      length = this.connection.answers.sendMessage(this, behind.message);
    } catch (error) {
      return this.fail(this.unsendable(error));
    }
    if (length !== KEPT) this.writer.onSent(length);
  }

  /** Responds with an error. */
  fail(error: ConnectError): void {
    if (this.done) return;
    // Headers that are dropped here are sent with the error.
    if (this.connection.answers.drop(this) === "unsent" && this.behindHeaders !== undefined) this.headersSent = false;
    try {
      this.addTrailers();
    } catch {
      // The interceptor's trailers are invalid. The call fails for another reason anyway.
    }
    this.connection.answers.sendError(this.streamId, error, this.context, KIND.end, !this.headersSent);
    this.finish(error);
  }

  /** Ends the call without a response: the client does not wait for one. */
  abandon(reason: ConnectError): void {
    if (this.done) return;
    this.connection.answers.drop(this);
    this.finish(reason);
  }

  private finish(reason: ConnectError | undefined): void {
    // Sending may have run user code that ended the connection, and with it this call.
    if (this.done) return;
    this.done = true;
    this.connection.remove(this);
    clearTimeout(this.timer);
    this.behindHeaders = undefined;
    void this.writer.stop(undefined)?.then(() => this.settle());
    this.reader.drop(reason);
    this.context.end(reason);
    if (!this.hasPlace) {
      this.connection.handlers.forget(this);
      this.connection.kept.give(this.metadataBytes);
    }
    if (!this.settled) return;
    this.reader.endScope();
    this.leavePlace();
  }
}
