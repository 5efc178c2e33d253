/** One call as a handler of grpc-js sees it: requests to read, answers to write, metadata, and the news that the client is gone. */
import { Duplex } from "node:stream";
import type { HandlerContext } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ServerErrorResponse } from "@grpc/grpc-js";
import { Metadata } from "@grpc/grpc-js";
import { serializeError } from "../rpc/errors.js";
import { addTo, toHeaders, toMetadata } from "./metadata.js";
import { MessageQueue } from "./queue.js";

/** What a handler's callback or its stream's "error" event gives. */
export type Failure = Partial<ServerErrorResponse>;

/** The four kinds of call in one: who has no use for a part of it does not see it in their types. */
export class GrpcServerCall extends Duplex {
  readonly metadata: Metadata;
  /** Of calls with one request. */
  readonly request: unknown;
  cancelled = false;
  readonly answers = new MessageQueue<unknown>();
  readonly seal: (answer: unknown) => unknown;
  private readonly context: HandlerContext;
  private readonly requests: AsyncIterator<unknown> | undefined;
  private readonly onAbort = () => this.cancel();
  private failure: ConnectError | undefined;
  private over = false;

  /** @param seal an answer as it is sent, whatever becomes of it afterwards. @throws what its serialiser throws */
  constructor(context: HandlerContext, request: unknown, requests: AsyncIterator<unknown> | undefined, seal: (answer: unknown) => unknown) {
    super({ objectMode: true });
    this.seal = seal;
    this.context = context;
    this.request = request;
    this.requests = requests;
    this.metadata = toMetadata(context.requestHeader);
    // Instead of being thrown: that is how handlers of streams fail a call, after what they have written.
    this.on("error", (error: Failure) => {
      this.failure = toConnectError(error, undefined);
      if (this.destroyed) this.answers.end(this.failure);
      else super.end();
    });
    context.signal.addEventListener("abort", this.onAbort, { once: true });
  }

  getPeer(): string {
    return "unknown";
  }

  /** Goes out with the first answer. */
  sendMetadata(metadata: Metadata): void {
    addTo(this.context.responseHeader, metadata);
  }

  getDeadline(): Date | number {
    const timeoutMs = this.context.timeoutMs();
    return timeoutMs === undefined ? Infinity : new Date(Date.now() + timeoutMs);
  }

  getPath(): string {
    return `/${this.context.service.typeName}/${this.context.method.name}`;
  }

  getHost(): string {
    return "localhost";
  }

  getAuthContext(): Record<string, never> {
    return {};
  }

  /** The handler's answers, until it ends them or fails. */
  sendTrailers(metadata: Metadata | null | undefined): void {
    addTo(this.context.responseTrailer, metadata);
  }

  /** The call is over: from now on nobody is told that the client went. */
  finish(): void {
    this.over = true;
    this.context.signal.removeEventListener("abort", this.onAbort);
    this.answers.close();
    this.destroy();
  }

  override _read(): void {
    if (this.requests === undefined) return void this.push(null);
    this.requests.next().then(
      ({ done, value }) => this.push(done === true ? null : value),
      (error: Error) => {
        // The call has ended; `cancel` says so.
        if (!this.context.signal.aborted) this.destroy(error);
      },
    );
  }

  override _write(answer: unknown, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    let sealed: unknown;
    try {
      sealed = this.seal(answer);
    } catch (error) {
      this.answers.end(serializeError(error));
      return callback();
    }
    this.answers.push(sealed, callback);
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.answers.end(this.failure);
    callback();
  }

  override end(...args: unknown[]): this {
    const [last] = args;
    if (last instanceof Metadata) {
      this.sendTrailers(last);
      return super.end();
    }
    return super.end(...(args as []));
  }

  private cancel(): void {
    if (this.over) return;
    this.cancelled = true;
    this.emit("cancelled", "cancelled");
    this.finish();
  }
}

/** As grpc-js reads what handlers fail with. */
export function toConnectError(failure: Failure | Error | null | undefined, trailers: Metadata | null | undefined): ConnectError {
  const { code, details, message, metadata } = (failure ?? {}) as Failure;
  const isCode = typeof code === "number" && Number.isInteger(code);
  const text = isCode && typeof details === "string" ? details : (message ?? "Unknown Error");
  const extra = trailers ?? metadata;
  return new ConnectError(text, isCode ? (code as unknown as Code) : Code.Unknown, extra === undefined ? undefined : toHeaders(extra));
}
