/**
 * A call of a server that has messages after its first frame, or is answered with a stream: from its request to its
 * end.
 *
 * STREAM-S  It ends exactly once, by `end` or `response` to the client, or without a word when the client gave it up or
 *           is gone. Then the handler's signal aborts, its iterables end, and what it still says is dropped. What was
 *           lent to it ends when it has settled, which may be later.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ReceivedFrame } from "../../carrier/carrier.js";
import type { StreamWindows } from "../../carrier/handshake/link.js";
import { clearTimeout, setTimeout } from "../../os/timers.js";
import { KIND } from "../../wire/frame.js";
import { encodeMetadata, metadataComplaint } from "../../wire/metadata.js";
import { CallContext } from "./context.js";
import { boundedTimeout, timedOut } from "../deadline.js";
import { handlerError, serializeError } from "../errors.js";
import { adopt } from "../foreign.js";
import type { RequestGate } from "./gate.js";
import { askGate } from "./gate.js";
import { KEPT } from "../../send/send-queue.js";
import type { ServerConnection } from "./server.js";
import { responseMetadata } from "./server-call.js";
import type { ServerMethod, StreamAnswer } from "./server-method.js";
import { StreamReader } from "../stream/stream-reader.js";
import type { MessageSource } from "../stream/stream-writer.js";
import { closeIterator, StreamWriter } from "../stream/stream-writer.js";

export class ServerStream implements MessageSource {
  private readonly connection: ServerConnection;
  readonly served: ServerMethod;
  readonly streamId: number;
  private readonly context: CallContext;
  private readonly reader: StreamReader;
  private readonly writer: StreamWriter;
  private readonly timer: NodeJS.Timeout | undefined;
  private answer: StreamAnswer | undefined;
  private headersSent = false;
  /** A message that is kept back until the headers are out. */
  private behindHeaders: { readonly message: unknown } | undefined;
  private done = false;
  /** The method's gate is being asked. */
  private isWaiting = false;
  /** A message could not be taken. */
  private isBroken = false;
  /** The handler has nothing more to do. */
  private settled = false;

  constructor(
    connection: ServerConnection,
    served: ServerMethod,
    streamId: number,
    metadata: Uint8Array | undefined,
    timeoutMs: number,
    windows: StreamWindows,
  ) {
    this.connection = connection;
    this.served = served;
    this.streamId = streamId;
    this.context = new CallContext(served, connection, metadata, timeoutMs);
    const options = {
      codec: served.input,
      receivePolicy: served.receivePolicy,
      readMaxBytes: served.options.readMaxBytes,
      windowBytes: windows.own,
      spanSource: connection.carrier.spanSource,
      isSingle: served.takesOne,
      statusFollows: false,
    };
    this.reader = new StreamReader(options, (bytes) => connection.grant(this, bytes));
    this.writer = new StreamWriter(this, windows.peer);
    const timeout = boundedTimeout(timeoutMs);
    if (timeout !== undefined) this.timer = setTimeout(() => this.fail(timedOut()), timeout);
  }

  /** Asks the method's gate; `run` comes next. @param refusal what the call is refused with if the gate lets it in */
  ask(gate: RequestGate, refusal: ConnectError | undefined): void {
    let isAnswered = false;
    askGate(gate, this.context, (error) => {
      isAnswered = true;
      const reason = error ?? refusal;
      if (reason !== undefined) return this.settleFailed(reason);
      if (!this.isWaiting) return;
      this.isWaiting = false;
      if (this.done) return this.settle();
      this.onBadMessage(this.reader.release());
      this.run();
    });
    if (isAnswered) return;
    this.isWaiting = true;
    this.reader.hold();
  }

  get isOver(): boolean {
    return this.done;
  }

  /**
   * Calls the handler, once the gate has let the call in, in a context of the stream's own (CONTEXT-2). Nothing that
   * the handler throws gets past here.
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

  /** The handler is done; perhaps long after the call is. */
  private settle(): void {
    this.settled = true;
    if (this.done) this.reader.endScope();
  }

  /** Answers with the only message. */
  private respond(message: unknown): void {
    if (this.done) return;
    try {
      this.addTrailers();
      const { metadata, headerLength } = responseMetadata(this.context, true);
      this.connection.send(this, metadata, headerLength, message);
    } catch (error) {
      return this.fail(this.unsendable(error));
    }
    this.finish(undefined);
  }

  private unsendable(error: unknown): ConnectError {
    return serializeError(error, "response", this.served.path);
  }

  // What the writer asks for.

  sendMessage(message: unknown): number {
    if (!this.headersSent) {
      this.headersSent = true;
      const header = this.context.responseHeaderIfAny;
      const metadata = header === undefined ? undefined : encodeMetadata(header);
      if (metadata !== undefined && metadata.length > 0) {
        const complaint = metadataComplaint(metadata.length);
        if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
        if (this.connection.sendHeaders(this, metadata) === KEPT) {
          this.behindHeaders = { message };
          return KEPT;
        }
      }
    }
    return this.connection.sendMessage(this, message);
  }

  onDrained(): void {
    this.settled = true;
    try {
      this.addTrailers();
      const { metadata, headerLength } = responseMetadata(this.context, !this.headersSent);
      this.connection.sendEnd(this, metadata, headerLength);
    } catch (error) {
      return this.fail(this.unsendable(error));
    }
    this.finish(undefined);
  }

  onBroken(error: unknown, isSending: boolean): void {
    this.settled = !isSending;
    this.fail(isSending ? this.unsendable(error) : handlerError(error));
  }

  /** Those of interceptors belong behind the handler's. @throws whatever odd ones throw */
  private addTrailers(): void {
    const trailer = this.answer?.trailer;
    if (trailer !== undefined && trailer !== this.context.responseTrailerIfAny)
      trailer.forEach((value, name) => this.context.responseTrailer.set(name, value));
  }

  // What the connection tells.

  /** Takes the only message of the request. */
  onOnly(frame: ReceivedFrame): void {
    this.onBadMessage(this.reader.takeOnly(frame));
  }

  onMessage(frame: ReceivedFrame): void {
    if (!this.isBroken) this.onBadMessage(this.reader.take(frame));
  }

  onFilled(): void {
    if (!this.isBroken) this.onBadMessage(this.reader.onFilled());
  }

  /** The handler learns of it when it has pulled what came before; what comes after is not looked at. */
  private onBadMessage(error: ConnectError | undefined): void {
    if (error === undefined) return;
    this.isBroken = true;
    this.reader.end(error);
  }

  /** The client has half-closed. */
  onEnd(): void {
    if (!this.isBroken) this.reader.onEnd();
  }

  onCredit(bytes: number): void {
    this.writer.onCredit(bytes);
  }

  /** What was kept is out. */
  onSent(messageLength: number): void {
    const behind = this.behindHeaders;
    if (behind === undefined) return this.writer.onSent(messageLength);
    this.behindHeaders = undefined;
    let length: number;
    try {
      length = this.connection.sendMessage(this, behind.message);
    } catch (error) {
      return this.fail(this.unsendable(error));
    }
    if (length !== KEPT) this.writer.onSent(length);
  }

  /** Ends the call with an error. */
  fail(error: ConnectError): void {
    if (this.done) return;
    // Headers that are dropped here go with the error.
    if (this.connection.drop(this) === "unsent" && this.behindHeaders !== undefined) this.headersSent = false;
    try {
      this.addTrailers();
    } catch {
      // Odd ones of an interceptor's. The call fails for a reason of its own.
    }
    this.connection.sendError(this.streamId, error, this.context, KIND.end, !this.headersSent);
    this.finish(error);
  }

  /** Nobody waits for the answer any more. */
  abandon(reason: ConnectError): void {
    if (this.done) return;
    this.connection.drop(this);
    this.finish(reason);
  }

  private finish(reason: ConnectError | undefined): void {
    // Sending may have run code of the user's that ended the connection, and with it this call.
    if (this.done) return;
    this.done = true;
    this.connection.remove(this);
    clearTimeout(this.timer);
    this.behindHeaders = undefined;
    void this.writer.stop(undefined)?.then(() => this.settle());
    this.reader.drop(reason);
    this.context.end(reason);
    if (this.settled) this.reader.endScope();
  }
}
