/** A slot of a client's table of open calls, a request's headers, and what a unary call is answered with. */
import type { DescMethodUnary } from "@bufbuild/protobuf";
import type { ConnectError, UnaryResponse } from "@connectrpc/connect";
import { decodeHeaders } from "../../wire/metadata.js";
import type { Reassembler } from "../inbound.js";
import type { ClientMethod } from "./client-method.js";
import type { ClientStream } from "./client-stream.js";

// SUBTLE: a promise's functions hold its result, and what is leased with it; so they are not kept beyond their call.
export const nothing = () => undefined;

/** Reused for call after call. */
export class ClientCall {
  readonly slot: number;
  generation = 0;
  streamId = 0;
  active = false;
  /** The call is a stream, and this is all that there is to it. */
  stream: ClientStream | undefined;
  method!: ClientMethod;
  resolve: (response: UnaryResponse) => void = nothing;
  reject: (error: ConnectError) => void = nothing;
  timer: NodeJS.Timeout | undefined;
  signal: AbortSignal | undefined;
  onAbort: (() => void) | undefined;
  reassembler: Reassembler | undefined;
  // Of an answer that comes in fragments, from its first frame.
  code = 0;
  metadata: Uint8Array | undefined;
  headerLength = 0;

  constructor(slot: number) {
    this.slot = slot;
  }
}

/** A response whose headers are read only if somebody looks. */
export class UnaryResult implements UnaryResponse {
  readonly stream = false;
  readonly method: DescMethodUnary;
  readonly message: UnaryResponse["message"];
  private readonly metadata: Uint8Array | undefined;
  private readonly headerLength: number;
  private headerRead: Headers | undefined;
  private trailerRead: Headers | undefined;

  constructor(method: DescMethodUnary, message: unknown, metadata: Uint8Array | undefined, headerLength: number) {
    this.method = method;
    this.message = message as UnaryResponse["message"];
    this.metadata = metadata;
    this.headerLength = headerLength;
  }

  get service() {
    return this.method.parent;
  }

  get header(): Headers {
    return (this.headerRead ??= decodeHeaders(this.metadata?.subarray(0, this.headerLength)));
  }

  get trailer(): Headers {
    return (this.trailerRead ??= decodeHeaders(this.metadata?.subarray(this.headerLength)));
  }
}
