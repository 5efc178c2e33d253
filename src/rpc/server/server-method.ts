/** A method as a server serves it. */
import type { DescMethod } from "@bufbuild/protobuf";
import type { Interceptor } from "@connectrpc/connect";
import type { MessageCodec } from "../../codec/codec.js";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import type { CallContext } from "./context.js";
import type { RequestGate } from "./gate.js";
import type { ReceivePolicy } from "../inbound.js";

/** Everything about a method that its calls need. */
export interface ServerMethod {
  readonly method: DescMethod;
  readonly path: string;
  /** Called before each call (GATE-1). */
  readonly gate: RequestGate | undefined;
  /**
   * The user's function for a unary method, wrapped in the interceptors if there are any; undefined for streaming
   * methods.
   */
  readonly handle: ((message: unknown, context: CallContext) => unknown) | undefined;
  /** The method, of any kind, as a function from a stream to a stream. */
  readonly open: (requests: AsyncIterable<unknown>, context: CallContext) => StreamAnswer | PromiseLike<StreamAnswer>;
  /** Whether the response has exactly one message. */
  readonly answersOnce: boolean;
  /** Whether the request has exactly one message. */
  readonly takesOne: boolean;
  readonly input: MessageCodec;
  readonly output: MessageCodec;
  readonly options: ServerMethodOptions;
  readonly receivePolicy: ReceivePolicy;
}

export interface ServerMethodOptions {
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
  readonly maxTimeoutMs: number;
  readonly leases: LeaseLifetime;
  readonly interceptors: readonly Interceptor[];
  readonly shutdownSignal: AbortSignal | undefined;
}

/** What a handler responds to a stream with. */
export interface StreamAnswer {
  readonly message: AsyncIterable<unknown>;
  /** Trailers set by interceptors. They are added to the context's trailers after the last message. */
  readonly trailer: Headers | undefined;
}
