/**
 * A call for a handler of grpc-js: requests to read, responses to write, metadata, and the notice that the client is
 * gone.
 *
 * GRPC-1  A call ends once: with the first status from the handler, or with the first failure. What the handler sends
 *         after that is dropped.
 * GRPC-2  Nothing that a handler passes makes anything throw beyond this file. What cannot be sent fails its call.
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

/** A value of generated code, in the shape of a message of a method without fields. */
export interface Envelope {
  readonly $typeName: string;
  readonly value: unknown;
  /** Encoded response; undefined for requests. */
  readonly bytes?: Uint8Array;
}

/** Receives the responses of a call. */
export interface Answers {
  /** @param taken called when the next response may be pushed */
  push(answer: Envelope, taken: (() => void) | undefined): void;
  /** No more responses follow. */
  end(error: ConnectError | undefined): void;
}

/** What a call needs to know of its method. */
export interface CallKind {
  readonly path: string;
  /** Name of the responses' type. */
  readonly answerType: string;
  readonly serialize: (value: unknown) => unknown;
  /** Whether responses are written to the call. Otherwise the handler passes the only one to its callback. */
  readonly writesAnswers: boolean;
}

const OK: Outcome = { error: undefined, trailer: undefined };

/** The four kinds of call in one class. The types for users show each kind only its own members. */
export class GrpcServerCall extends Duplex {
  /** The request, of calls that have exactly one. */
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
  /** How the call ends when the stream of responses does. */
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
    // The listener keeps Node from throwing the error. Handlers of streams fail a call by emitting an error after what
    // they have written.
    this.on("error", (error: unknown) => this.onError(error));
    if (context.signal.aborted) queueMicrotask(this.onAbort);
    else context.signal.addEventListener("abort", this.onAbort, { once: true });
  }

  // Called by the handler for information.

  get metadata(): Metadata {
    return (this.metadataRead ??= toMetadata(this.context.requestHeader));
  }

  getPeer(): string {
    return (this.context as Partial<CallContext>).peerAddress ?? "unknown";
  }

  /** Time of the program's clock, which a test may have replaced. */
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

  /** The metadata are sent with the first response. */
  sendMetadata(metadata: Metadata): void {
    if (this.over || this.headersSent) return;
    this.headersSent = true;
    const headers = givenHeaders(metadata);
    if (headers === null) this.finish({ error: notMetadata("sendMetadata"), trailer: undefined });
    else if (headers !== undefined) addTo(this.context.responseHeader, headers);
  }

  /** Ends the stream of responses. @param args the trailer, as `Metadata` */
  override end(...args: unknown[]): this {
    const [trailer] = args;
    if (typeof trailer === "function") return super.end(trailer as () => void);
    // As in grpc-js, any other value is not a last response.
    if (trailer) this.trailer = givenHeaders(trailer);
    return super.end();
  }

  /**
   * SUBTLE: Node's default iterator destroys the stream after the last request, and with it the responses that are
   * still to be written.
   */
  override [Symbol.asyncIterator](): ReturnType<Duplex["iterator"]> {
    return this.iterator({ destroyOnReturn: false });
  }

  // Called by the handler to respond.

  /** The handler's callback. As in grpc-js, a falsy failure means success. */
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
    // Copied: the handler may modify its value, and the serializer may reuse its array.
    this.answers.push({ $typeName: this.kind.answerType, value, bytes: Buffer.from(bytes) }, taken);
  }

  // Ends the call (GRPC-1).
  private finish({ error, trailer }: Outcome): void {
    if (this.over) return;
    this.over = true;
    this.context.signal.removeEventListener("abort", this.onAbort);
    if (trailer === null) error ??= notMetadata("the trailer");
    else if (trailer !== undefined) addTo(this.context.responseTrailer, trailer);
    this.answers.end(error);
    // A stream's "close" event reports the end of its call.
    if (this.requests !== undefined || this.kind.writesAnswers) this.destroy();
  }

  private onError(error: unknown): void {
    // A destroyed stream emits nothing at its end. A handler with a callback may still call it.
    if (this.destroyed && !this.kind.writesAnswers) return;
    this.outcome = outcomeOf(error, undefined);
    if (this.destroyed) this.finish(this.outcome);
    else super.end();
  }

  // Called by Node's stream.

  override _read(): void {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- without it the stream is not readable
    this.requests!.next().then(
      ({ done, value }) => void this.push(done === true ? null : value),
      (error: unknown) => {
        // If the call has ended, the signal reports it.
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
    // If there is an error, the "error" event reports it.
    if (error === null && this.kind.writesAnswers)
      this.fail(new ConnectError("the handler destroyed its call", Code.Unknown));
    callback(error);
  }

  /** The client is gone, the deadline has passed, or a request cannot be received. */
  private cancel(error: ConnectError): void {
    if (this.over) return;
    this.fail(error);
    this.cancelled = true;
    this.emit("cancelled", "cancelled");
  }
}

function notMetadata(what: string): ConnectError {
  return new ConnectError(`the handler passed ${what} something other than Metadata`, Code.Internal);
}

function nameOf(value: unknown): string {
  return value === null ? "null" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}
