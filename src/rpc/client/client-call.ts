/** An entry of the table of open calls, and the result of a unary call. */
import type { DescMethodUnary } from "@bufbuild/protobuf";
import type { ConnectError, UnaryResponse } from "@connectrpc/connect";
import { decodeHeaders } from "../../wire/metadata.js";
import type { Reassembler } from "../inbound.js";
import type { ClientMethod } from "./client-method.js";
import type { ClientStream } from "./client-stream.js";

// SUBTLE: a promise's functions keep its result and the leases of that result alive. So they are replaced when the call
// ends.
export const nothing = () => undefined;

/** An entry is reused for one call after another. */
export class ClientCall {
  readonly slot: number;
  generation = 0;
  streamId = 0;
  active = false;
  /** Set if the call is a stream, which then handles all of its frames. */
  stream: ClientStream | undefined;
  method!: ClientMethod;
  /** Takes the message if `wantsMessage`, otherwise a `UnaryResult`. */
  resolve: (result: unknown) => void = nothing;
  reject: (error: ConnectError) => void = nothing;
  wantsMessage = false;
  timer: NodeJS.Timeout | undefined;
  signal: AbortSignal | undefined;
  onAbort: (() => void) | undefined;
  reassembler: Reassembler | undefined;
  // These are taken from the first frame of a response that arrives in fragments.
  code = 0;
  metadata: Uint8Array | undefined;
  headerLength = 0;

  constructor(slot: number) {
    this.slot = slot;
  }
}

/** A response that decodes its headers only when they are read. */
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
