/**
 * The unary calls of a client's connection: sends their requests, takes their responses, and settles each call exactly
 * once. The slots belong to the connection (CALL-1).
 */
import type { DescMethodUnary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, ReceivedFrame } from "../../carrier/carrier.js";
import { Violation } from "../../memory/shm/violation.js";
import { setTimeout } from "../../os/timers.js";
import type { SendQueue } from "../../send/send-queue.js";
import { FLAG, KIND, STATUS_BYTES_MAX } from "../../wire/frame.js";
import { onAbortOf } from "../abort.js";
import { boundedTimeout, timedOut } from "../deadline.js";
import { abortError, decodeError, noMemory, parseError, serializeError, tooLarge } from "../errors.js";
import { Reassembler, decodeWhole, takeFragment, takeMetadata } from "../inbound.js";
import type { CallRequest } from "./call-request.js";
import { requestMetadata } from "./call-request.js";
import type { CallTable } from "./call-table.js";
import { isOpen } from "./call-table.js";
import type { ClientCall } from "./client-call.js";
import { UnaryResult } from "./client-call.js";
import type { ClientMethod } from "./client-method.js";
import type { ClientLimits } from "./client-owner.js";

/** What a connection does for its unary calls. */
export interface UnaryCallHost {
  readonly calls: CallTable;
  take(): ClientCall;
  /** Ends a call, and frees its slot. */
  free(call: ClientCall): void;
  /** Defines the method on the connection unless the server knows it already. */
  define(method: ClientMethod): void;
  /** Closes the connection if it takes no more calls, and this one was the last. Called when a call is settled. */
  closeIfLeft(): void;
}

export class UnaryCalls {
  private readonly carrier: Carrier;
  private readonly sendQueue: SendQueue;
  private readonly limits: ClientLimits;
  private readonly host: UnaryCallHost;

  constructor(carrier: Carrier, sendQueue: SendQueue, limits: ClientLimits, host: UnaryCallHost) {
    this.carrier = carrier;
    this.sendQueue = sendQueue;
    this.limits = limits;
    this.host = host;
  }

  /** Starts a call. There must be a free slot. `resolve` or `reject` is called once, perhaps before this returns. */
  start(request: CallRequest, resolve: (result: unknown) => void, reject: (error: ConnectError) => void): void {
    const { method, header, signal } = request;
    if (signal !== undefined && signal.aborted) return reject(abortError(signal));
    const call = this.host.take();
    const { streamId } = call;
    call.method = method;
    call.resolve = resolve;
    call.reject = reject;
    call.wantsMessage = request.wantsMessage;
    try {
      const metadata = header === undefined ? undefined : requestMetadata(header);
      this.host.define(method);
      const timeout = boundedTimeout(request.timeoutMs);
      const argument = timeout === undefined ? 0 : Math.ceil(timeout);
      this.sendQueue.send({
        kind: KIND.request,
        flags: FLAG.endStream,
        code: method.id,
        streamId,
        argument,
        metadata,
        codec: method.input,
        message: request.input,
        writeMaxBytes: this.limits.writeMaxBytes,
        label: method.path,
      });
      // Sending may have found that the connection is broken, or run code of the user's that ended it.
      if (!isOpen(call, streamId)) return;
      if (timeout !== undefined) this.cancelAfter(call, streamId, timeout);
      if (signal !== undefined) this.cancelOnAbort(call, streamId, signal);
    } catch (error) {
      // SUBTLE: the code that threw may have ended the connection before, and with it this call, whose slot may belong
      // to another call by now.
      if (isOpen(call, streamId)) this.host.free(call);
      reject(serializeError(error, "request", method.path));
    }
  }

  private cancelAfter(call: ClientCall, streamId: number, timeoutMs: number): void {
    call.timer = setTimeout(() => this.cancel(streamId, timedOut()), timeoutMs);
  }

  private cancelOnAbort(call: ClientCall, streamId: number, signal: AbortSignal): void {
    call.signal = signal;
    call.onAbort = () => this.cancel(streamId, abortError(signal));
    onAbortOf(signal, call.onAbort);
  }

  onResponse(call: ClientCall, frame: ReceivedFrame): void {
    if (call.reassembler !== undefined) throw new Violation("STREAM-2", "a second response to one call");
    const metadata = call.wantsMessage && frame.code === 0 ? undefined : takeMetadata(frame);
    const headerLength = frame.argument;
    if (headerLength > frame.metadataLength) throw new Violation("FRAME-7", "headers reach past the metadata");
    if (frame.code === 0 && frame.messageLength > this.limits.readMaxBytes) {
      return this.cancel(frame.streamId, tooLarge(frame.messageLength, this.limits.readMaxBytes));
    }
    if (frame.code !== 0 && frame.messageLength > STATUS_BYTES_MAX) {
      throw new Violation("STATUS-1", `an error of ${frame.messageLength} bytes`);
    }
    if ((frame.flags & FLAG.more) !== 0 || frame.following) {
      call.code = frame.code;
      call.metadata = metadata;
      call.headerLength = headerLength;
      this.assemble(call, frame);
      return;
    }
    let message: unknown;
    try {
      if (frame.code !== 0) {
        return this.fail(call, decodeError(frame.code, takeFragment(frame), metadata));
      }
      message = decodeWhole(call.method.output, frame, this.carrier.spanSource, call.method.receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.fail(call, parseError(error, "response", call.method.path));
    }
    this.succeed(call, message, metadata, headerLength);
  }

  /** A further fragment of a response. */
  onFragment(call: ClientCall, frame: ReceivedFrame): void {
    if (call.reassembler === undefined && this.limits.windows !== undefined) return this.refuseStream(call);
    if (call.reassembler === undefined) throw new Violation("STREAM-3", "a fragment without its message's first frame");
    if (call.reassembler.add(frame)) this.onWhole(call);
  }

  /** The fragment that followed a frame is in its place. */
  onFilled(call: ClientCall): void {
    if (call.reassembler?.filledUp() === true) this.onWhole(call);
  }

  /** Client and server disagree about the kind of the method. */
  refuseStream({ streamId, method }: ClientCall): void {
    const what = `the server answers ${method.path} with a stream, and this client called it as a unary method`;
    this.cancel(streamId, new ConnectError(`protocol error: ${what}`, Code.Unimplemented));
  }

  /** The response has arrived completely. */
  private onWhole(call: ClientCall): void {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it has just been completed
    const { bytes, received } = call.reassembler!;
    if (call.code !== 0) return this.fail(call, decodeError(call.code, bytes, call.metadata));
    let message: unknown;
    try {
      message = received.decode(call.method.output, bytes, 0, bytes.length, true);
      call.reassembler = undefined;
    } catch (error) {
      return this.fail(call, parseError(error, "response", call.method.path));
    }
    this.succeed(call, message, call.metadata, call.headerLength);
  }

  private assemble(call: ClientCall, frame: ReceivedFrame): void {
    try {
      call.reassembler = Reassembler.start(frame, this.carrier.spanSource, call.method.receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.cancel(call.streamId, noMemory(frame.messageLength, error));
    }
    call.reassembler.add(frame);
  }

  private succeed(call: ClientCall, message: unknown, metadata: Uint8Array | undefined, headerLength: number): void {
    const { resolve, streamId, wantsMessage, method } = call;
    if (this.sendQueue.borrows) this.sendQueue.release(streamId);
    this.host.free(call);
    // SUBTLE: the slot may belong to the next call by now.
    if (wantsMessage) resolve(message);
    else resolve(new UnaryResult(method.method as DescMethodUnary, message, metadata, headerLength));
    this.host.closeIfLeft();
  }

  fail(call: ClientCall, error: ConnectError): void {
    const { reject, streamId } = call;
    // The server refused the call, or it timed out, before it had read the whole request. The rest need not be sent.
    this.sendQueue.drop(streamId);
    this.host.free(call);
    reject(error);
    this.host.closeIfLeft();
  }

  /** Ends a call from this side. Tells the server unless the request has not been sent. */
  private cancel(streamId: number, error: ConnectError): void {
    const call = this.host.calls.find(streamId);
    if (call === undefined) return;
    if (this.sendQueue.drop(streamId) === "sent") {
      this.sendQueue.sendControl(KIND.reset, error.code, streamId, 0);
    }
    this.fail(call, error);
  }
}
