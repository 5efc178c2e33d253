/** A call on its way from the transport to a connection. */
import type { ContextValues } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { encodeMetadata, metadataComplaint } from "../../wire/metadata.js";
import type { ClientMethod } from "./client-method.js";

/** Made once, where the call enters, and passed on as it is. */
export interface CallRequest<Input = unknown, Header = Headers> {
  readonly method: ClientMethod;
  /** The message; for a stream, the iterator of the caller's messages. */
  readonly input: Input;
  readonly header: Header | undefined;
  /** What is left of the timeout, in milliseconds; undefined or not positive: no deadline. */
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** For the owner of the connection, if the call moves to another one. */
  readonly contextValues: ContextValues | undefined;
}

/** A call whose messages are pulled from an iterator. */
export type StreamCallRequest = CallRequest<AsyncIterator<unknown>>;

/** The request after it has waited. */
export function withTimeout<Input>(request: CallRequest<Input>, timeoutMs: number | undefined): CallRequest<Input> {
  const { method, input, header, signal, contextValues } = request;
  return { method, input, header, timeoutMs, signal, contextValues };
}

/** Encodes a request's headers. @throws ConnectError `ResourceExhausted` if they are too large */
export function requestMetadata(header: Headers): Uint8Array {
  const metadata = encodeMetadata(header);
  const complaint = metadataComplaint(metadata.length);
  if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
  return metadata;
}
