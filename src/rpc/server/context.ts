/**
 * The context of a call, as Connect's HandlerContext. Each part is made when it is first read, so a handler that reads
 * nothing costs no Headers and no AbortController.
 */
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import type { ContextKey, ContextValues, HandlerContext } from "@connectrpc/connect";
import { createContextKey } from "@connectrpc/connect";
import type { Carrier } from "../../carrier/carrier.js";
import type { PeerCredentials } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";
import { decodeHeaders } from "../../wire/metadata.js";
import { onAbortOf } from "../abort.js";
import { abortError } from "../errors.js";

/**
 * Key of the context value with the credentials of the calling process, as the kernel reported them when it connected.
 * Undefined for calls that did not arrive through a Unix socket.
 *
 * @example
 * ```ts
 * const whoAmI = (request: WhoAmIRequest, context: HandlerContext) => {
 *   const peer = context.values.get(peerCredentials);
 *   return { uid: peer?.uid ?? -1 };
 * };
 * ```
 */
export const peerCredentials: ContextKey<PeerCredentials | undefined> = createContextKey<PeerCredentials | undefined>(
  undefined,
  {
    description: "credentials of the calling process",
  },
);

/** The origin of the URLs that interceptors and handlers see. No HTTP is involved, but they may parse the URL. */
export const URL_BASE = "http://localhost";

/**
 * The context values of one call. They are set here and not in the given ones, which the user may give to many calls.
 */
class CallValues implements ContextValues {
  private readonly given: ContextValues;
  private readonly own = new Map<symbol, unknown>();

  constructor(given: ContextValues) {
    this.given = given;
  }

  get<T>(key: ContextKey<T>): T {
    return this.own.has(key.id) ? (this.own.get(key.id) as T) : this.given.get(key);
  }

  set<T>(key: ContextKey<T>, value: T): this {
    this.own.set(key.id, value);
    return this;
  }

  delete(key: ContextKey<unknown>): this {
    return this.set(key, key.defaultValue);
  }
}

/** What a call's context reads of its method. */
export interface CalledMethod {
  readonly method: DescMethod;
  readonly path: string;
  readonly options: { readonly shutdownSignal: AbortSignal | undefined };
}

/** The client of a connection. */
export interface Caller {
  /** Undefined if the kernel vouches for no credentials. */
  readonly peer: PeerCredentials | undefined;
  /** Host and port of a client over TCP. */
  readonly peerAddress?: string | undefined;
  /** Makes the initial context values of a call. */
  readonly contextValues: (peer: PeerCredentials | undefined) => ContextValues;
}

/** What a call's context reads of its connection. */
export interface CallerConnection {
  readonly carrier: Carrier;
  readonly options: Caller;
}

export class CallContext implements HandlerContext {
  readonly protocolName = "isthmus";
  readonly requestMethod = "POST";
  private readonly served: CalledMethod;
  private readonly connection: CallerConnection;
  private readonly metadata: Uint8Array | undefined;
  private readonly deadline: number;
  private controller: AbortController | undefined;
  private unlink: (() => void) | undefined;
  private hasEnded = false;
  private endReason: unknown;
  private requestHeaderRead: Headers | undefined;
  private valuesMade: ContextValues | undefined;
  responseHeaderIfAny: Headers | undefined;
  responseTrailerIfAny: Headers | undefined;

  constructor(served: CalledMethod, connection: CallerConnection, metadata: Uint8Array | undefined, timeoutMs: number) {
    this.served = served;
    this.connection = connection;
    this.metadata = metadata;
    this.deadline = timeoutMs > 0 ? nowMs() + timeoutMs : 0;
  }

  get method(): DescMethod {
    return this.served.method;
  }

  get service(): DescService {
    return this.served.method.parent;
  }

  get url(): string {
    return URL_BASE + this.served.path;
  }

  /** A getter, so that the function also works without its `this`, and costs nothing unless it is used. */
  get timeoutMs(): () => number | undefined {
    return () => (this.deadline === 0 ? undefined : this.deadline - nowMs());
  }

  get signal(): AbortSignal {
    if (this.controller === undefined) {
      this.controller = new AbortController();
      if (this.hasEnded) this.controller.abort(this.endReason);
      else this.linkShutdown(this.controller);
    }
    return this.controller.signal;
  }

  get requestHeader(): Headers {
    return (this.requestHeaderRead ??= decodeHeaders(this.metadata));
  }

  get responseHeader(): Headers {
    return (this.responseHeaderIfAny ??= new Headers());
  }

  get responseTrailer(): Headers {
    return (this.responseTrailerIfAny ??= new Headers());
  }

  get values(): ContextValues {
    if (this.valuesMade === undefined) {
      const { contextValues, peer } = this.connection.options;
      this.valuesMade = new CallValues(contextValues(peer)).set(peerCredentials, peer);
    }
    return this.valuesMade;
  }

  /** Host and port of a client over TCP; otherwise undefined. */
  get peerAddress(): string | undefined {
    return this.connection.options.peerAddress;
  }

  /** The carrier of the call's connection. */
  get carrier(): Carrier {
    return this.connection.carrier;
  }

  /** Ends the call: the signal aborts, as in Connect. */
  end(reason: unknown): void {
    this.hasEnded = true;
    this.endReason = reason;
    this.unlink?.();
    this.controller?.abort(reason);
  }

  private linkShutdown(controller: AbortController): void {
    const shutdown = this.served.options.shutdownSignal;
    if (shutdown === undefined) return;
    const onShutdown = () => controller.abort(abortError(shutdown));
    if (shutdown.aborted) return onShutdown();
    onAbortOf(shutdown, onShutdown);
    this.unlink = () => shutdown.removeEventListener("abort", onShutdown);
  }
}
