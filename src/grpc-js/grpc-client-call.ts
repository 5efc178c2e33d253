/**
 * One call of a grpc-js client over an Isthmus transport: the `Call` that generated clients start, write to and read
 * from.
 *
 * grpc-js opens a call before its kind is known. So the call is sent in a later microtask: if all its messages are
 * there by then, as with all unary requests, it is sent in a single frame.
 */
import { isUint8Array } from "node:util/types";
import type { DescMethodStreaming } from "@bufbuild/protobuf";
import type { ContextValues, StreamResponse } from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import type { CallCredentials, ChannelInterface, InterceptingListener, Metadata, StatusObject } from "@grpc/grpc-js";
import { status as Status } from "@grpc/grpc-js";
import { waitForReady } from "../connect/client/dialer.js";
import type { IsthmusTransport } from "../connect/types/client.js";
import { clearTimeout, nowMs, queueMicrotask, setTimeout } from "../os/timers.js";
import { boundedTimeout, timedOut } from "../rpc/deadline.js";
import { partsOf } from "../rpc/errors.js";
import { methodOf } from "./bytes-codec.js";
import { toHeaders, toMetadata } from "./metadata.js";
import { MessageQueue } from "./queue.js";
import { failedStatus, statusOf } from "./status.js";

/** grpc-js's type of calls made by a channel. It is exported only as the result of `ChannelInterface.createCall`. */
export type ChannelCall = ReturnType<ChannelInterface["createCall"]>;
type MessageContext = Parameters<ChannelCall["sendMessageWithContext"]>[0];
type AuthContext = NonNullable<ReturnType<ChannelCall["getAuthContext"]>>;

/** The methods of one path, for calls with one request and for calls with several. */
export interface PathMethods {
  readonly oneRequest: DescMethodStreaming;
  readonly requests: DescMethodStreaming;
}

export function pathMethodsOf(path: string): PathMethods {
  return {
    oneRequest: methodOf(path, "server_streaming") as DescMethodStreaming,
    requests: methodOf(path, "bidi_streaming") as DescMethodStreaming,
  };
}

let lastNumber = 0;

export class GrpcClientCall implements ChannelCall {
  private readonly transport: IsthmusTransport;
  private readonly methods: PathMethods;
  private readonly path: string;
  /** Time of the monotonic clock; `Infinity` if there is none. */
  private readonly deadline: number;
  private readonly peer: string;
  private readonly number = ++lastNumber;
  private readonly controller = new AbortController();
  private readonly requests = new MessageQueue<Uint8Array>();
  private credentials: CallCredentials | undefined;
  private listener: InterceptingListener | undefined;
  private iterator: AsyncIterator<unknown> | undefined;
  private response: StreamResponse | undefined;
  /** Number of messages that grpc-js has asked for and not received. */
  private reads = 0;
  /** The next message, once it has arrived. */
  private next: { readonly message: Buffer } | undefined;
  private fetching = false;
  private ended = false;
  /** Runs while a message waits to be read: until then nothing else would report that the deadline has passed. */
  private timer: NodeJS.Timeout | undefined;
  /** Called when the call has ended. */
  onEnded: (() => void) | undefined;

  /**
   * @param timeoutMs a negative number or NaN means that the deadline has passed; `Infinity` means no deadline
   */
  constructor(transport: IsthmusTransport, methods: PathMethods, path: string, peer: string, timeoutMs: number) {
    this.transport = transport;
    this.methods = methods;
    this.path = path;
    this.peer = peer;
    this.deadline = timeoutMs === Infinity ? Infinity : nowMs() + timeoutMs;
  }

  start(metadata: Metadata, listener: InterceptingListener): void {
    this.listener = listener;
    const headers = metadata.clone();
    queueMicrotask(() => void this.open(headers));
  }

  /**
   * SUBTLE: copies `message`. It is sent later, and the user's function that returned it may reuse its memory before.
   */
  sendMessageWithContext({ callback }: MessageContext, message: unknown): void {
    if (isUint8Array(message)) return this.requests.push(Buffer.from(message), callback);
    this.cancelWithStatus(
      Status.INTERNAL,
      `Request message serialization failure: requestSerialize returned a value of type ${typeof message} instead of bytes`,
    );
    this.requests.push(new Uint8Array(0), callback);
  }

  halfClose(): void {
    this.requests.end();
  }

  startRead(): void {
    this.reads++;
    this.deliver();
  }

  cancelWithStatus(code: Status, details: string): void {
    if (this.ended) return;
    this.finish(failedStatus(code, details));
    this.controller.abort(new ConnectError(details, Code.Canceled));
  }

  getPeer(): string {
    return this.peer;
  }

  getCallNumber(): number {
    return this.number;
  }

  setCredentials(credentials: CallCredentials): void {
    this.credentials = credentials;
  }

  getAuthContext(): AuthContext | null {
    return null;
  }

  private async open(metadata: Metadata): Promise<void> {
    let response: StreamResponse;
    try {
      if (this.credentials !== undefined) await this.addCredentials(this.credentials, metadata);
      if (this.ended) return;
      const timeoutMs = this.leftMs();
      const method = this.requests.isSingle ? this.methods.oneRequest : this.methods.requests;
      response = await this.transport.stream(
        method,
        this.controller.signal,
        timeoutMs,
        toHeaders(metadata),
        this.requests as AsyncIterable<never>,
        contextValuesOf(metadata),
      );
    } catch (error) {
      return this.fail(error);
    }
    if (this.hasEnded()) return;
    this.response = response;
    this.iterator = (response.message as AsyncIterable<unknown>)[Symbol.asyncIterator]();
    this.tellHeader(response.header);
    // Errors must be noticed even if no message is read.
    await this.fetch();
  }

  /**
   * Adds call credentials. Making them may take any time, so the deadline applies meanwhile. @throws what the call
   * fails with
   */
  private async addCredentials(credentials: CallCredentials, metadata: Metadata): Promise<void> {
    const timeoutMs = boundedTimeout(this.leftMs());
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => this.fail(timedOut(" while it waited for call credentials")), timeoutMs);
    try {
      metadata.merge(
        await credentials.generateMetadata({
          method_name: this.path,
          service_url: `https://localhost/${this.path.split("/", 2)[1] ?? ""}`,
        }),
      );
    } catch (error) {
      throw credentialsError(error);
    } finally {
      clearTimeout(timer);
    }
    if (metadata.get("authorization").length > 1)
      throw new ConnectError('"authorization" metadata cannot have multiple values', Code.Internal);
  }

  /**
   * Time left until the deadline, in milliseconds; undefined if there is none. @throws ConnectError if it has passed
   */
  private leftMs(): number | undefined {
    if (this.deadline === Infinity) return undefined;
    const leftMs = this.deadline - nowMs();
    if (!(leftMs > 0)) throw timedOut();
    return leftMs;
  }

  private async fetch(): Promise<void> {
    if (this.fetching || this.next !== undefined || this.ended) return;
    this.fetching = true;
    let result: IteratorResult<unknown>;
    try {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is set before the first fetch
      result = await this.iterator!.next();
    } catch (error) {
      return this.fail(error);
    } finally {
      this.fetching = false;
    }
    if (result.done === true)
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is set with the iterator
      return this.finish({ code: Status.OK, details: "OK", metadata: toMetadata(this.response!.trailer) });
    this.next = { message: result.value as Buffer };
    this.deliver();
    if (this.next !== undefined && this.deadline !== Infinity) this.watchDeadline();
  }

  private deliver(): void {
    if (this.ended || this.reads === 0 || this.next === undefined) return;
    const { message } = this.next;
    this.next = undefined;
    this.reads--;
    if (this.timer !== undefined) this.timer = void clearTimeout(this.timer);
    // grpc-js asks for the next message inside this call.
    try {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- grpc-js calls `start` first
      this.listener!.onReceiveMessage(message);
    } catch (error) {
      throwLater(error);
    }
    void this.fetch();
  }

  private watchDeadline(): void {
    const timeoutMs = boundedTimeout(Math.max(this.deadline - nowMs(), 1));
    if (timeoutMs !== undefined)
      this.timer ??= setTimeout(
        () => this.cancelWithStatus(Status.DEADLINE_EXCEEDED, timedOut().rawMessage),
        timeoutMs,
      );
  }

  private fail(error: unknown): void {
    if (this.ended) return;
    const failure = ConnectError.from(error);
    const parts = this.response === undefined ? partsOf(failure) : undefined;
    if (parts !== undefined) this.tellHeader(parts.header);
    this.finish(statusOf(failure, (this.response ?? parts)?.trailer ?? failure.metadata));
  }

  private tellHeader(header: Headers): void {
    try {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- grpc-js calls `start` first
      this.listener!.onReceiveMetadata(toMetadata(header));
    } catch (error) {
      throwLater(error);
    }
  }

  private finish(status: StatusObject): void {
    if (this.ended) return;
    this.ended = true;
    this.requests.close();
    if (this.timer !== undefined) clearTimeout(this.timer);
    this.onEnded?.();
    // Later, because grpc-js may still be starting, sending or canceling.
    queueMicrotask(() => this.listener?.onReceiveStatus(status));
  }

  private hasEnded(): boolean {
    return this.ended;
  }
}

/** grpc-js passes "wait for ready" with the metadata. Without it the transport's option applies. */
function contextValuesOf(metadata: Metadata): ContextValues | undefined {
  return metadata.getOptions().waitForReady === true ? createContextValues().set(waitForReady, true) : undefined;
}

/** An error of a user's listener becomes an uncaught exception of the program, and does not affect the call. */
function throwLater(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

/** Codes that only a server's method may respond with: grpc-js does not accept them from credentials. */
const METHODS_OWN: readonly unknown[] = [
  Status.OK,
  Status.INVALID_ARGUMENT,
  Status.NOT_FOUND,
  Status.ALREADY_EXISTS,
  Status.FAILED_PRECONDITION,
  Status.ABORTED,
  Status.OUT_OF_RANGE,
  Status.DATA_LOSS,
];

/** The error of failed call credentials, with grpc-js's texts. */
function credentialsError(reason: unknown): ConnectError {
  const { code, message } = (reason ?? {}) as { readonly code?: unknown; readonly message?: unknown };
  const details = `Getting metadata from plugin failed with error: ${String(message)}`;
  const status = typeof code === "number" ? code : Status.UNKNOWN;
  if (METHODS_OWN.includes(status))
    return new ConnectError(
      `Invalid status from control plane: ${status} ${Status[status]} ${details}`,
      Code.Internal,
      undefined,
      undefined,
      reason,
    );
  return new ConnectError(details, status, undefined, undefined, reason);
}
