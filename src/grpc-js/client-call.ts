/**
 * One call of a grpc-js client over an Isthmus transport: grpc-js's `Call`, which its generated clients start, write to and read from.
 *
 * grpc-js opens a call before it says of which kind it is. So the call is opened in a later microtask: what was sent and ended by then, as
 * all unary requests are, goes in a single frame.
 */
import type { DescMethodStreaming } from "@bufbuild/protobuf";
import type { ContextValues, StreamResponse } from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import type { CallCredentials, ChannelInterface, InterceptingListener, StatusObject } from "@grpc/grpc-js";
import { Metadata, status as Status } from "@grpc/grpc-js";
import { waitForReady } from "../connect/dialer.js";
import type { IsthmusTransport } from "../connect/transport.js";
import { clearTimeout, queueMicrotask, setTimeout } from "../os/timers.js";
import { boundedTimeout } from "../rpc/deadline.js";
import { methodOf } from "./bytes-codec.js";
import { toHeaders, toMetadata } from "./metadata.js";
import { MessageQueue } from "./queue.js";

/** What grpc-js does with a call that a channel has made. Not exported by it, but for `ChannelInterface.createCall`. */
export type ChannelCall = ReturnType<ChannelInterface["createCall"]>;
type MessageContext = Parameters<ChannelCall["sendMessageWithContext"]>[0];
type AuthContext = NonNullable<ReturnType<ChannelCall["getAuthContext"]>>;

/** The methods of one path, by how its call begins. */
export interface PathMethods {
  readonly oneRequest: DescMethodStreaming;
  readonly requests: DescMethodStreaming;
}

export function pathMethodsOf(path: string): PathMethods {
  return { oneRequest: methodOf(path, "server_streaming") as DescMethodStreaming, requests: methodOf(path, "bidi_streaming") as DescMethodStreaming };
}

let lastNumber = 0;

export class ClientCall implements ChannelCall {
  private readonly transport: IsthmusTransport;
  private readonly methods: PathMethods;
  private readonly path: string;
  /** In milliseconds since the epoch; Infinity: none. */
  private readonly deadline: number;
  private readonly number = ++lastNumber;
  private readonly controller = new AbortController();
  private readonly requests = new MessageQueue<Uint8Array>();
  private credentials: CallCredentials | undefined;
  private listener: InterceptingListener | undefined;
  private iterator: AsyncIterator<unknown> | undefined;
  private response: StreamResponse | undefined;
  /** Messages that grpc-js has asked for and not got. */
  private reads = 0;
  /** The next message, once it is there. */
  private next: { readonly message: Buffer } | undefined;
  private fetching = false;
  private ended = false;
  private canceledWith: { readonly code: Status; readonly details: string } | undefined;

  constructor(transport: IsthmusTransport, methods: PathMethods, path: string, deadline: number) {
    this.transport = transport;
    this.methods = methods;
    this.path = path;
    this.deadline = deadline;
  }

  start(metadata: Metadata, listener: InterceptingListener): void {
    this.listener = listener;
    const headers = metadata.clone();
    queueMicrotask(() => void this.open(headers));
  }

  sendMessageWithContext({ callback }: MessageContext, message: Buffer): void {
    // It is sent later, and the user's serialiser may use its memory again before.
    this.requests.push(Buffer.from(message), callback);
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
    this.canceledWith ??= { code, details };
    this.controller.abort(new ConnectError(details, Code.Canceled));
    this.finish(code, details, new Metadata());
  }

  getPeer(): string {
    return this.transport.stats().carrier ?? "unknown";
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
    try {
      if (this.credentials !== undefined) await this.addCredentials(this.credentials, metadata);
      if (this.ended) return;
      const timeoutMs = this.leftMs();
      const method = this.requests.isSingle ? this.methods.oneRequest : this.methods.requests;
      this.response = await this.transport.stream(method, this.controller.signal, timeoutMs, toHeaders(metadata), this.requests as AsyncIterable<never>, contextValuesOf(metadata));
      if (this.hasEnded()) return;
      this.iterator = (this.response.message as AsyncIterable<unknown>)[Symbol.asyncIterator]();
      this.listener!.onReceiveMetadata(toMetadata(this.response.header));
    } catch (error) {
      return this.fail(error);
    }
    // An error has to be noticed without anybody reading.
    await this.fetch();
  }

  /** Whose they are may take their time, or forever: the deadline holds meanwhile. */
  private async addCredentials(credentials: CallCredentials, metadata: Metadata): Promise<void> {
    const timeoutMs = boundedTimeout(this.leftMs());
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => this.fail(new ConnectError("Deadline exceeded while waiting for call credentials", Code.DeadlineExceeded)), timeoutMs);
    try {
      metadata.merge(await credentials.generateMetadata({ method_name: this.path, service_url: `https://localhost${this.path}` }));
    } finally {
      clearTimeout(timer);
    }
  }

  /** Until the deadline, in milliseconds; undefined: there is none. @throws ConnectError if it has passed */
  private leftMs(): number | undefined {
    if (this.deadline === Infinity) return undefined;
    const leftMs = this.deadline - Date.now();
    if (leftMs <= 0) throw new ConnectError("Deadline exceeded", Code.DeadlineExceeded);
    return leftMs;
  }

  private async fetch(): Promise<void> {
    if (this.fetching || this.next !== undefined || this.ended) return;
    this.fetching = true;
    let result: IteratorResult<unknown>;
    try {
      result = await this.iterator!.next();
    } catch (error) {
      return this.fail(error);
    } finally {
      this.fetching = false;
    }
    if (result.done === true) return this.finish(Status.OK, "OK", toMetadata(this.response!.trailer));
    this.next = { message: result.value as Buffer };
    this.deliver();
  }

  private deliver(): void {
    if (this.ended || this.reads === 0 || this.next === undefined) return;
    const { message } = this.next;
    this.next = undefined;
    this.reads--;
    // grpc-js asks for the next one meanwhile.
    this.listener!.onReceiveMessage(message);
    void this.fetch();
  }

  private fail(error: unknown): void {
    const failure = ConnectError.from(error);
    this.finish(failure.code as unknown as Status, failure.rawMessage, toMetadata(failure.metadata));
  }

  private finish(code: Status, details: string, metadata: Metadata): void {
    if (this.ended) return;
    this.ended = true;
    this.requests.close();
    const status: StatusObject = { code, details, metadata };
    // Never while grpc-js is still starting, sending or canceling.
    queueMicrotask(() => this.listener?.onReceiveStatus(status));
  }

  private hasEnded(): boolean {
    return this.ended;
  }
}

/** What grpc-js calls "wait for ready" is asked for with the metadata. Without, the transport's option holds. */
function contextValuesOf(metadata: Metadata): ContextValues | undefined {
  return metadata.getOptions().waitForReady === true ? createContextValues().set(waitForReady, true) : undefined;
}
