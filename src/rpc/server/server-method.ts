/** A method as a server serves it. */
import type { DescMethod } from "@bufbuild/protobuf";
import type { Interceptor } from "@connectrpc/connect";
import type { MessageCodec } from "../../codec/codec.js";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import type { CallContext } from "./context.js";
import type { RequestGate } from "./gate.js";
import type { ReceivePolicy } from "../inbound.js";

/** A method as this server serves it. */
export interface ServerMethod {
  readonly method: DescMethod;
  readonly path: string;
  /** Asked before each call: GATE-1. */
  readonly gate: RequestGate | undefined;
  /**
   * The user's function for a unary method, behind the interceptors if there are any; undefined for methods with
   * streams.
   */
  readonly handle: ((message: unknown, context: CallContext) => unknown) | undefined;
  /** The method, of any kind, as one that is given a stream and answers with one. */
  readonly open: (requests: AsyncIterable<unknown>, context: CallContext) => StreamAnswer | PromiseLike<StreamAnswer>;
  /** Whether it is answered with one message. */
  readonly answersOnce: boolean;
  /** Whether it takes one message. */
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

/** What a handler's streams are. */
export interface StreamAnswer {
  readonly message: AsyncIterable<unknown>;
  /** Trailers that interceptors made, to be added to those of the context when all messages are out. */
  readonly trailer: Headers | undefined;
}
