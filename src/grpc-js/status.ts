/**
 * How calls end in grpc-js, a code, details and metadata, and in Connect, a `ConnectError` or none. What handlers fail
 * with is anything: nothing here throws.
 *
 * gRPC has its error details in `grpc-status-details-bin`, bytes of a `google.rpc.Status`; Connect has them in the
 * error, and so has the wire.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { StatusObject } from "@grpc/grpc-js";
import { Metadata, status as Status } from "@grpc/grpc-js";
import { encodeError } from "../rpc/outgoing-error.js";
import { decodeStatus } from "../wire/status.js";
import { givenHeaders, toMetadata } from "./metadata.js";

const DETAILS_KEY = "grpc-status-details-bin";

/** How a handler ended its call. */
export interface Outcome {
  /** Undefined: it succeeded. */
  readonly error: ConnectError | undefined;
  /** Undefined: none; null: what was given is none. */
  readonly trailer: Headers | null | undefined;
}

/**
 * A handler threw, before or after it returned. As in grpc-js, what it threw is nobody's business but the server's: it
 * is the cause.
 */
export function thrownError(reason: unknown): ConnectError {
  return new ConnectError("Unknown error", Code.Unknown, undefined, undefined, reason);
}

/**
 * What a handler's callback or its stream's "error" event was given, as grpc-js reads it: also a plain object, and one
 * whose code is OK.
 * @param trailers given besides the failure, instead of its own
 */
export function outcomeOf(failure: unknown, trailers: unknown): Outcome {
  try {
    return readFailure(failure, trailers);
  } catch {
    return { error: new ConnectError("Unknown Error", Code.Unknown), trailer: undefined };
  }
}

function readFailure(failure: unknown, trailers: unknown): Outcome {
  if (failure instanceof ConnectError) {
    const instead = givenHeaders(trailers);
    if (!instead) return { error: failure, trailer: undefined };
    const error = new ConnectError(failure.rawMessage, failure.code, instead, undefined, failure.cause);
    error.details = failure.details;
    return { error, trailer: undefined };
  }
  const given = (typeof failure === "object" || typeof failure === "function" ? failure : {}) as Partial<
    StatusObject & Error
  >;
  const code = Number.isInteger(given.code) ? given.code : undefined;
  const text =
    code !== undefined && typeof given.details === "string" ? given.details : (given.message ?? "Unknown Error");
  const headers = givenHeaders(trailers ?? given.metadata) ?? undefined;
  if (code === Status.OK) return { error: undefined, trailer: headers };
  const error = new ConnectError(
    String(text),
    (code ?? Status.UNKNOWN) as unknown as Code,
    headers,
    undefined,
    failure,
  );
  const details = headers?.get(DETAILS_KEY);
  if (typeof details === "string") error.details = detailsOf(details);
  return { error, trailer: undefined };
}

/** How a call failed, as grpc-js tells it. */
export function statusOf(error: ConnectError, trailer: Headers): StatusObject {
  const metadata = toMetadata(trailer);
  if (error.details.length > 0 && metadata.get(DETAILS_KEY).length === 0)
    metadata.set(DETAILS_KEY, Buffer.from(encodeError(error, undefined, false).status));
  return { code: error.code as unknown as Status, details: error.rawMessage, metadata };
}

export function failedStatus(code: Status, details: string): StatusObject {
  return { code, details, metadata: new Metadata() };
}

function detailsOf(base64: string): ConnectError["details"] {
  try {
    return [...decodeStatus(Buffer.from(base64.split(",")[0], "base64")).details];
  } catch {
    // The bytes still go as the metadata that they are.
    return [];
  }
}
