/** A unary call of a server, from the arrival of its request to its answer. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Holding } from "../memory/lease.js";
import { clearTimeout, setTimeout } from "../os/timers.js";
import { encodeMetadata, metadataComplaint } from "../wire/metadata.js";
import { CallContext } from "./context.js";
import { boundedTimeout, timedOut } from "./deadline.js";
import { handlerError, serializeError } from "./errors.js";
import type { RequestGate } from "./gate.js";
import { askGate } from "./gate.js";
import type { Assembly } from "./inbound.js";
import type { ServerConnection } from "./server.js";
import type { ServerMethod } from "./server-method.js";

/** A request whose gate is being asked. */
interface WaitingRequest {
  /** What it is refused with if the gate lets it in: then nothing of it is kept. */
  readonly refusal: ConnectError | undefined;
  /** It is here, all of it. */
  isWhole: boolean;
}

/** One request from its arrival to its answer. */
export class ServerCall {
  private readonly connection: ServerConnection;
  readonly served: ServerMethod;
  readonly streamId: number;
  assembly: Assembly | undefined;
  /** What the request has leased, if that ends with the handler. */
  scope: Holding | undefined;
  /** While the method's gate is being asked. */
  waiting: WaitingRequest | undefined;
  private readonly context: CallContext;
  private readonly timer: NodeJS.Timeout | undefined;
  private done = false;

  constructor(connection: ServerConnection, served: ServerMethod, streamId: number, metadata: Uint8Array | undefined, timeoutMs: number) {
    this.connection = connection;
    this.served = served;
    this.streamId = streamId;
    this.context = new CallContext(served, connection, metadata, timeoutMs);
    const timeout = boundedTimeout(timeoutMs);
    if (timeout !== undefined) this.timer = setTimeout(() => this.fail(timedOut()), timeout);
  }

  /** Asks the method's gate. @returns whether the call is in; if it is not, it has failed or waits */
  ask(gate: RequestGate, refusal: ConnectError | undefined): boolean {
    let isAnswered = false;
    const waiting: WaitingRequest = { refusal, isWhole: false };
    askGate(gate, this.context, (error) => {
      isAnswered = true;
      this.waiting = undefined;
      if (this.done) return;
      const reason = error ?? refusal;
      if (reason !== undefined) this.fail(reason);
      else if (waiting.isWhole) this.connection.onWhole(this);
    });
    if (!isAnswered) this.waiting = waiting;
    return isAnswered && !this.done;
  }

  /** Runs the handler. Called by the drain, so in the poller's root context; nothing that the handler throws gets past here. */
  run(message: unknown): void {
    let result: unknown;
    try {
      result = this.served.handle!(message, this.context);
    } catch (error) {
      return this.settle(undefined, handlerError(error));
    }
    if (isThenable(result)) {
      const promise = result instanceof Promise ? result : Promise.resolve(result);
      promise.then(
        (answer) => this.settle(answer, undefined),
        (error: unknown) => this.settle(undefined, handlerError(error)),
      );
    } else {
      this.settle(result, undefined);
    }
  }

  /** The handler is done; perhaps long after the call is. What was lent to it ends when its answer has been taken. */
  private settle(answer: unknown, error: ConnectError | undefined): void {
    if (error !== undefined) this.fail(error);
    else this.answer(answer);
    if (this.scope === undefined) return;
    // Taking bytes away takes microseconds; the client need not wait for that.
    if (!this.connection.closed) this.connection.carrier.publish();
    this.scope.endScope();
  }

  private answer(message: unknown): void {
    if (this.done) return;
    const { connection } = this;
    try {
      const { metadata, headerLength } = responseMetadata(this.context, undefined);
      const complaint = metadataComplaint(metadata?.length ?? 0);
      if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
      connection.send(this, metadata, headerLength, message);
    } catch (error) {
      return this.fail(serializeError(error));
    }
    this.finish(undefined);
    connection.forget(this);
  }

  /** Answers with an error. */
  fail(error: ConnectError): void {
    if (this.done) return;
    this.finish(error);
    this.connection.forget(this);
    this.connection.sendError(this.streamId, error, this.context);
  }

  /** Nobody waits for the answer any more. */
  abandon(reason: ConnectError): void {
    if (!this.done) this.finish(reason);
  }

  private finish(reason: ConnectError | undefined): void {
    this.done = true;
    this.assembly?.received.drop();
    this.assembly = undefined;
    if (this.timer !== undefined) clearTimeout(this.timer);
    this.context.end(reason);
  }
}

/** As `await` sees it: promises of other realms and libraries count too. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return value instanceof Promise || typeof (value as Partial<PromiseLike<unknown>> | null | undefined)?.then === "function";
}

/** Joins response headers and trailers (with an error's metadata) into one block. */
export function responseMetadata(
  context: CallContext | undefined,
  extra: Headers | undefined,
  withHeaders = true,
): { metadata: Uint8Array | undefined; headerLength: number } {
  const header = withHeaders ? context?.responseHeaderIfAny : undefined;
  const trailer = context?.responseTrailerIfAny;
  if (header === undefined && trailer === undefined && (extra === undefined || isEmpty(extra))) return NO_METADATA;
  const parts = [header, trailer, extra].map((headers) => (headers === undefined ? new Uint8Array(0) : encodeMetadata(headers)));
  return { metadata: Buffer.concat(parts), headerLength: parts[0].length };
}

const NO_METADATA = { metadata: undefined, headerLength: 0 };

function isEmpty(headers: Headers): boolean {
  for (const entry of headers) {
    void entry;
    return false;
  }
  return true;
}
