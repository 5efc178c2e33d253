/**
 * A server's unary call, from the arrival of its request to its response.
 *
 * CALL-3  A call ends when its response has been handed over, and not earlier: whatever a handler returns or throws,
 *         exactly one response is sent. Making an error's response cannot fail (ERROR-1).
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { KeptBytes } from "../../memory/kept/kept-bytes.js";
import type { MessageLeases } from "../../memory/payload/message-leases.js";
import { clearTimeout, setTimeout } from "../../os/timers.js";
import { encodeMetadata, metadataComplaint } from "../../wire/metadata.js";
import type { Answers } from "./answers.js";
import type { CallerConnection } from "./context.js";
import { CallContext } from "./context.js";
import { boundedTimeout, timedOut } from "../deadline.js";
import { handlerError, serializeError } from "../errors.js";
import { adopt } from "../foreign.js";
import type { RequestGate } from "./gate.js";
import { askGate } from "./gate.js";
import type { Handlers, WaitingCall } from "./handlers.js";
import type { Reassembler } from "../inbound.js";
import type { ServerMethod } from "./server-method.js";

/** A request whose handler may not start yet: its call has no place (HANDLER-1), or its gate has not decided. */
interface WaitingRequest {
  /** The error that the call fails with even if the gate admits it. Then none of the request is kept. */
  readonly refusal: ConnectError | undefined;
  /** Whether the request has arrived completely. */
  isWhole: boolean;
}

/** What a connection does for its unary calls. */
export interface ServerCallHost extends CallerConnection {
  readonly closed: boolean;
  readonly answers: Answers;
  readonly handlers: Handlers;
  readonly kept: KeptBytes;
  readonly unary: {
    /** The request has arrived completely, and its gate has let it in. */
    onWhole(call: ServerCall): void;
  };
  /** Frees the slot of a call that is over. */
  remove(call: ServerCall): void;
}

/** One request from its arrival to its answer. */
export class ServerCall implements WaitingCall {
  private readonly connection: ServerCallHost;
  readonly served: ServerMethod;
  readonly streamId: number;
  reassembler: Reassembler | undefined;
  /** Leases of the request, if they end with the handler. */
  scope: MessageLeases | undefined;
  /** Set while the call waits for a place, or its method's gate decides. */
  waiting: WaitingRequest | undefined;
  private readonly context: CallContext;
  private readonly timer: NodeJS.Timeout | undefined;
  /** Whether the call has a place (HANDLER-1). */
  hasPlace = false;
  /** Private memory of the request, in bytes (KEPT-1). */
  private keptBytes = 0;
  private done = false;
  /** Whether the method's gate or handler runs. */
  private isRunning = false;

  constructor(
    connection: ServerCallHost,
    served: ServerMethod,
    streamId: number,
    metadata: Uint8Array | undefined,
    timeoutMs: number,
  ) {
    this.connection = connection;
    this.served = served;
    this.streamId = streamId;
    this.context = new CallContext(served, connection, metadata, timeoutMs);
    if (metadata !== undefined) this.keep(metadata.length);
    const timeout = boundedTimeout(timeoutMs);
    if (timeout !== undefined) this.timer = setTimeout(() => this.fail(timedOut()), timeout);
  }

  /** The call waits for a place. @param refusal the error that the call fails with even if the gate admits it */
  wait(refusal: ConnectError | undefined): void {
    this.waiting = { refusal, isWhole: false };
  }

  onPlace(): void {
    this.hasPlace = true;
    const { gate } = this.served;
    const { waiting } = this;
    if (gate !== undefined) return void this.ask(gate, waiting?.refusal);
    this.waiting = undefined;
    if (waiting?.isWhole === true) this.connection.unary.onWhole(this);
  }

  /** Asks the method's gate. @returns whether the call is admitted; otherwise it has failed or waits */
  ask(gate: RequestGate, refusal: ConnectError | undefined): boolean {
    let isAnswered = false;
    const waiting = this.waiting ?? { refusal, isWhole: false };
    this.isRunning = true;
    askGate(gate, this.context, (error) => {
      isAnswered = true;
      this.isRunning = false;
      this.waiting = undefined;
      if (this.done) return this.leavePlace();
      const reason = error ?? refusal;
      if (reason !== undefined) this.fail(reason);
      else if (waiting.isWhole) this.connection.unary.onWhole(this);
    });
    if (!isAnswered) this.waiting = waiting;
    return isAnswered && !this.done;
  }

  /** Runs the handler in an async context of its own (CONTEXT-2). Errors of the handler do not leave this function. */
  run(message: unknown): void {
    let promise: Promise<unknown> | undefined;
    let result: unknown;
    this.isRunning = true;
    try {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- other methods are served as streams
      result = this.served.handle!(message, this.context);
      promise = adopt(result);
    } catch (error) {
      return this.settle(undefined, handlerError(error));
    }
    if (promise === undefined) return this.settle(result, undefined);
    promise.then(
      (answer) => this.settle(answer, undefined),
      (error: unknown) => this.settle(undefined, handlerError(error)),
    );
  }

  /**
   * The handler has settled, perhaps long after the call has ended. The leases of the request end once its response has
   * been handed over.
   */
  private settle(answer: unknown, error: ConnectError | undefined): void {
    if (!this.isRunning) return;
    this.isRunning = false;
    if (error !== undefined) this.fail(error);
    else this.answer(answer);
    this.leavePlace();
    if (this.scope === undefined) return;
    // Ending the leases takes microseconds. The client need not wait for that.
    if (!this.connection.closed) this.connection.carrier.publish();
    this.scope.endScope();
  }

  private answer(message: unknown): void {
    if (this.done) return;
    const { connection } = this;
    try {
      const { metadata, headerLength } = responseMetadata(this.context, true);
      connection.answers.send(this, metadata, headerLength, message);
    } catch (error) {
      return this.fail(serializeError(error, "response", this.served.path));
    }
    this.finish(undefined);
  }

  /** Responds with an error. */
  fail(error: ConnectError): void {
    if (this.done) return;
    this.connection.answers.sendError(this.streamId, error, this.context);
    this.finish(error);
  }

  /** Ends the call without a response: the client does not wait for one. */
  abandon(reason: ConnectError): void {
    this.finish(reason);
  }

  private finish(reason: ConnectError | undefined): void {
    // Sending may have run user code that ended the connection, and with it this call.
    if (this.done) return;
    this.done = true;
    this.connection.remove(this);
    this.reassembler?.received.drop();
    this.reassembler = undefined;
    if (this.timer !== undefined) clearTimeout(this.timer);
    this.context.end(reason);
    if (this.hasPlace) this.leavePlace();
    else {
      this.connection.handlers.forget(this);
      this.connection.kept.give(this.keptBytes);
    }
  }

  /** Gives the place up, if the call is over and its handler has settled (HANDLER-1). */
  private leavePlace(): void {
    if (!this.hasPlace || this.isRunning || !this.done) return;
    this.hasPlace = false;
    this.connection.kept.give(this.keptBytes);
    this.connection.handlers.leave();
  }

  /** Counts memory that is kept until the call is over and its handler has settled. */
  keep(byteLength: number): void {
    this.keptBytes += byteLength;
    this.connection.kept.take(byteLength);
  }
}

/**
 * Joins response headers and trailers into one block.
 * @throws ConnectError `ResourceExhausted` if they are too large; whatever reading them throws
 */
export function responseMetadata(
  context: CallContext,
  withHeaders: boolean,
): { metadata: Uint8Array | undefined; headerLength: number } {
  const header = withHeaders ? context.responseHeaderIfAny : undefined;
  const trailer = context.responseTrailerIfAny;
  if (header === undefined && trailer === undefined) return NO_METADATA;
  const parts = [header, trailer].map((headers) => (headers === undefined ? NO_BYTES : encodeMetadata(headers)));
  const metadata = Buffer.concat(parts);
  const complaint = metadataComplaint(metadata.length);
  if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
  return { metadata, headerLength: parts[0].length };
}

const NO_BYTES: Uint8Array = new Uint8Array(0);
const NO_METADATA = { metadata: undefined, headerLength: 0 };
