/** The unary calls of one connection, from the arrival of a request's first frame to the start of its handler. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ReceivedFrame, SpanSource } from "../../carrier/carrier.js";
import { inOwnContext } from "../../carrier/poll/root-context.js";
import type { KeptBytes } from "../../memory/kept/kept-bytes.js";
import { isScoped } from "../../memory/payload/lease.js";
import { leasesOf } from "../../memory/payload/message-leases.js";
import { Violation } from "../../memory/shm/violation.js";
import { FLAG } from "../../wire/frame.js";
import { noMemory, parseError, tooLarge } from "../errors.js";
import { decodeWhole, lastDecoded, Reassembler } from "../inbound.js";
import type { Handlers } from "./handlers.js";
import type { ServerCall } from "./server-call.js";
import type { ServerMethod } from "./server-method.js";

export class UnaryCalls {
  private readonly spanSource: SpanSource;
  private readonly handlers: Handlers;
  private readonly kept: KeptBytes;

  constructor(spanSource: SpanSource, handlers: Handlers, kept: KeptBytes) {
    this.spanSource = spanSource;
    this.handlers = handlers;
    this.kept = kept;
  }

  /**
   * Takes the frame that opened a call.
   * @param excess the error of a request that exceeds its method's limits; only of methods with a gate, which is asked
   *   first
   */
  begin(call: ServerCall, frame: ReceivedFrame, excess: ConnectError | undefined): void {
    const { served } = call;
    if (this.handlers.enter(call)) call.hasPlace = true;
    else call.wait(excess);
    if (!call.hasPlace || (served.gate !== undefined && !call.ask(served.gate, excess))) {
      if (call.waiting !== undefined && call.waiting.refusal === undefined) this.assemble(call, frame);
      return;
    }
    if ((frame.flags & FLAG.more) !== 0 || frame.following) return this.assemble(call, frame);
    const { input, path, receivePolicy } = served;
    const scoped = isScoped(receivePolicy.lifetime) && (frame.spanCount > 0 || receivePolicy.lifetime === "strict");
    let message: unknown;
    try {
      message = decodeWhole(input, frame, this.spanSource, receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return call.fail(parseError(error, "request", path));
    }
    call.keep(lastDecoded.bytes);
    if (scoped) call.scope = leasesOf(message as object);
    call.run(message);
  }

  /** Takes a further fragment of a call's request. @throws Violation */
  onMessage(call: ServerCall, frame: ReceivedFrame): void {
    if (call.waiting?.refusal !== undefined) return;
    if (call.reassembler === undefined || call.waiting?.isWhole === true)
      throw new Violation("STREAM-3", "a fragment without its message's first frame");
    if (call.reassembler.add(frame)) inOwnContext(this.onWhole, call);
  }

  /** The fragment that followed a frame has arrived. */
  onFilled(call: ServerCall): void {
    if (call.reassembler?.filledUp() === true) inOwnContext(this.onWhole, call);
  }

  /** The request has arrived completely, or its gate has admitted it. */
  readonly onWhole = (call: ServerCall): void => {
    if (call.waiting !== undefined) {
      call.waiting.isWhole = true;
      return;
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it has just been completed
    const { bytes, received } = call.reassembler!;
    call.reassembler = undefined;
    const { input, path, receivePolicy } = call.served;
    let message: unknown;
    try {
      message = received.decode(input, bytes, 0, bytes.length, true);
    } catch (error) {
      return call.fail(parseError(error, "request", path));
    }
    call.keep(lastDecoded.bytes);
    if (isScoped(receivePolicy.lifetime)) call.scope = leasesOf(message as object);
    call.run(message);
  };

  /** Keeps the bytes of a request that this frame begins. */
  private assemble(call: ServerCall, frame: ReceivedFrame): void {
    try {
      call.reassembler = Reassembler.start(frame, this.spanSource, call.served.receivePolicy, this.kept);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return call.fail(noMemory(frame.messageLength, error));
    }
    if (call.reassembler.add(frame)) this.onWhole(call);
  }
}

/** The error of a request that exceeds its method's limits. */
export function excessOf(
  { options }: ServerMethod,
  { messageLength, argument }: ReceivedFrame,
): ConnectError | undefined {
  const { readMaxBytes, maxTimeoutMs } = options;
  if (messageLength > readMaxBytes) return tooLarge(messageLength, readMaxBytes);
  if (argument > maxTimeoutMs)
    return new ConnectError(`timeout ${argument}ms must be <= ${maxTimeoutMs}`, Code.InvalidArgument);
  return undefined;
}
