/**
 * One call as a handler of grpc-js sees it: requests to read, answers to write, metadata, and the news that the client
 * is gone.
 *
 * GRPC-1  A call ends once: by the first status that the handler gives, or by the first thing that goes wrong. What a
 *         handler says after that is dropped.
 * GRPC-2  Nothing that a handler gives us throws past here. What cannot be sent fails its call.
 */
import type { DuplexOptions } from "node:stream";
import { Duplex } from "node:stream";
import { isUint8Array } from "node:util/types";
import type { HandlerContext } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Metadata } from "@grpc/grpc-js";
import { queueMicrotask } from "../os/timers.js";
import type { CallContext } from "../rpc/server/context.js";
import { addTo, givenHeaders, toMetadata } from "./metadata.js";
import type { Outcome } from "./status.js";
import { outcomeOf } from "./status.js";

/** A value of generated code, in a shape that passes for a message of a method without fields. */
export interface Envelope {
  readonly $typeName: string;
  readonly value: unknown;
  /** Of an answer. */
  readonly bytes?: Uint8Array;
}

/** Where the answers of a call go. */
export interface Answers {
  /** @param taken called when the next one may come */
  push(answer: Envelope, taken: (() => void) | undefined): void;
  /** All of them are there. */
  end(error: ConnectError | undefined): void;
}

/** A method as its calls see it. */
export interface CallKind {
  readonly path: string;
  /** Name of the type of its answers. */
  readonly answerType: string;
  readonly serialize: (value: unknown) => unknown;
  /** Answers are written to the call; else the handler has a callback for the only one. */
  readonly writesAnswers: boolean;
}

const OK: Outcome = { error: undefined, trailer: undefined };

/** The four kinds of call in one: who has no use for a part of it does not see it in their types. */
export class GrpcServerCall extends Duplex {
  /** Of calls with one request. */
  readonly request: unknown;
  cancelled = false;
  private readonly kind: CallKind;
  private readonly context: HandlerContext;
  private readonly answers: Answers;
  private readonly requests: AsyncIterator<unknown> | undefined;
  private readonly onAbort = () => this.cancel(new ConnectError("the client canceled the call", Code.Canceled));
  private metadataRead: Metadata | undefined;
  private deadline: number | undefined;
  private headersSent = false;
  /** What the end of the stream of answers says. */
  private outcome: Outcome = OK;
  private trailer: Headers | null | undefined;
  private over = false;

  constructor(
    kind: CallKind,
    context: HandlerContext,
    answers: Answers,
    request: unknown,
    requests: AsyncIterator<unknown> | undefined,
  ) {
    super({ objectMode: true, readable: requests !== undefined } as DuplexOptions);
    this.kind = kind;
    this.context = context;
    this.answers = answers;
    this.request = request;
    this.requests = requests;
    // Instead of being thrown: that is how handlers of streams fail a call, after what they have written.
    this.on("error", (error: unknown) => this.onError(error));
    if (context.signal.aborted) queueMicrotask(this.onAbort);
    else context.signal.addEventListener("abort", this.onAbort, { once: true });
  }

  // What a handler asks for.

  get metadata(): Metadata {
    return (this.metadataRead ??= toMetadata(this.context.requestHeader));
  }

  getPeer(): string {
    return (this.context as Partial<CallContext>).peerAddress ?? "unknown";
  }

  /** By the clock of the program, which may have another one in a test. */
  getDeadline(): number {
    if (this.deadline === undefined) {
      const timeoutMs = this.context.timeoutMs();
      this.deadline = timeoutMs === undefined ? Infinity : Date.now() + timeoutMs;
    }
    return this.deadline;
  }

  getPath(): string {
    return this.kind.path;
  }

  getHost(): string {
    return "localhost";
  }

  getAuthContext(): Record<string, never> {
    return {};
  }

  /** Goes out with the first answer. */
  sendMetadata(metadata: Metadata): void {
    if (this.over || this.headersSent) return;
    this.headersSent = true;
    const headers = givenHeaders(metadata);
    if (headers === null) this.finish({ error: notMetadata("sendMetadata"), trailer: undefined });
    else if (headers !== undefined) addTo(this.context.responseHeader, headers);
  }

  /** Ends the stream of answers. @param trailer `Metadata` */
  override end(...args: unknown[]): this {
    const [trailer] = args;
    if (typeof trailer === "function") return super.end(trailer as () => void);
    // Any other value is no last answer, as in grpc-js.
    if (trailer) this.trailer = givenHeaders(trailer);
    return super.end();
  }

  /**
   * SUBTLE: Node's own iterator destroys the stream when the requests have ended, and with it what is still to be
   * answered.
   */
  override [Symbol.asyncIterator](): ReturnType<Duplex["iterator"]> {
    return this.iterator({ destroyOnReturn: false });
  }

  // What the handler says.

  /** The handler's callback. Falsy failures are none, as in grpc-js. */
  respond(failure: unknown, value: unknown, trailer: unknown): void {
    if (failure) return this.finish(outcomeOf(failure, trailer));
    this.answer(value, undefined);
    this.finish({ error: undefined, trailer: givenHeaders(trailer) });
  }

  fail(error: ConnectError): void {
    this.finish({ error, trailer: undefined });
  }

  private answer(value: unknown, taken: (() => void) | undefined): void {
    if (this.over) return;
    let bytes: unknown;
    try {
      bytes = this.kind.serialize(value);
    } catch (error) {
      return this.fail(new ConnectError("Error serializing response", Code.Internal, undefined, undefined, error));
    }
    if (!isUint8Array(bytes))
      return this.fail(
        new ConnectError(
          `Error serializing response: responseSerialize returned ${nameOf(bytes)} instead of bytes`,
          Code.Internal,
        ),
      );
    this.headersSent = true;
    // The handler may go on with what it gave, and the serialiser with what it returned.
    this.answers.push({ $typeName: this.kind.answerType, value, bytes: Buffer.from(bytes) }, taken);
  }

  // GRPC-1
  private finish({ error, trailer }: Outcome): void {
    if (this.over) return;
    this.over = true;
    this.context.signal.removeEventListener("abort", this.onAbort);
    if (trailer === null) error ??= notMetadata("the trailer");
    else if (trailer !== undefined) addTo(this.context.responseTrailer, trailer);
    this.answers.end(error);
    // A stream's "close" event says that its call is over.
    if (this.requests !== undefined || this.kind.writesAnswers) this.destroy();
  }

  private onError(error: unknown): void {
    // A stream that was destroyed says nothing at its end. A handler with a callback may still call it.
    if (this.destroyed && !this.kind.writesAnswers) return;
    this.outcome = outcomeOf(error, undefined);
    if (this.destroyed) this.finish(this.outcome);
    else super.end();
  }

  // What the stream does.

  override _read(): void {
    this.requests!.next().then(
      ({ done, value }) => void this.push(done === true ? null : value),
      (error: unknown) => {
        // If the call has ended, the signal says so.
        if (!this.context.signal.aborted) this.cancel(ConnectError.from(error, Code.Internal));
      },
    );
  }

  override _write(value: unknown, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.answer(value, callback);
  }

  override _final(callback: (error?: Error | null) => void): void {
    callback();
    this.finish({ ...this.outcome, trailer: this.outcome.trailer ?? this.trailer });
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    // With an error, the "error" event says it.
    if (error === null && this.kind.writesAnswers)
      this.fail(new ConnectError("the handler destroyed its call", Code.Unknown));
    callback(error);
  }

  /** The client is gone, the deadline has passed, or a request cannot be taken. */
  private cancel(error: ConnectError): void {
    if (this.over) return;
    this.fail(error);
    this.cancelled = true;
    this.emit("cancelled", "cancelled");
  }
}

function notMetadata(what: string): ConnectError {
  return new ConnectError(`the handler gave ${what} something else than Metadata`, Code.Internal);
}

function nameOf(value: unknown): string {
  return value === null ? "null" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}
