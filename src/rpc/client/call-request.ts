/** A call on its way from the transport to a connection. */
import type { ContextValues } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { encodeMetadata, metadataComplaint } from "../../wire/metadata.js";
import type { ClientMethod } from "./client-method.js";

/** A unary call, or a stream. Made once, where the call enters, and passed on unchanged. */
export interface CallRequest<Input = unknown, Header = Headers> {
  readonly method: ClientMethod;
  /** The message; for a stream, the iterator of the caller's messages. */
  readonly input: Input;
  readonly header: Header | undefined;
  /** Time left for the call, in milliseconds. No deadline if it is undefined or not positive. */
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** For the connection's owner, which may make the call over another connection. The connection does not read it. */
  readonly contextValues: ContextValues | undefined;
  /** Whether a unary call resolves with the message alone, not with a response. Streams do not read it. */
  readonly wantsMessage: boolean;
}

/** A streaming call. Its messages are pulled from an iterator. */
export type StreamCallRequest = CallRequest<AsyncIterator<unknown>>;

/** What a connection rejects a call with that it did not take. Nothing of the call was sent, so its owner makes it anew. */
export class NotTaken<Input = unknown> extends Error {
  readonly request: CallRequest<Input>;

  /** @param request the call with the time that is left for it */
  constructor(request: CallRequest<Input>) {
    super("the connection takes no more calls");
    this.request = request;
  }
}

/** The same request with another timeout, after it has waited. */
export function withTimeout<Input>(request: CallRequest<Input>, timeoutMs: number | undefined): CallRequest<Input> {
  const { method, input, header, signal, contextValues, wantsMessage } = request;
  return { method, input, header, timeoutMs, signal, contextValues, wantsMessage };
}

/** Encodes a request's headers. @throws ConnectError `ResourceExhausted` if they are too large */
export function requestMetadata(header: Headers): Uint8Array {
  const metadata = encodeMetadata(header);
  const complaint = metadataComplaint(metadata.length);
  if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
  return metadata;
}
