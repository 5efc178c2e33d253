/**
 * Converts the ends of calls between grpc-js (code, details and metadata) and Connect (a `ConnectError` or none).
 * Handlers may fail with anything. Nothing here throws.
 *
 * gRPC has its error details in `grpc-status-details-bin`, as bytes of a `google.rpc.Status`. Connect and the wire have
 * them in the error.
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
  /** Undefined if the call succeeded. */
  readonly error: ConnectError | undefined;
  /** Undefined if there is none; null if it is invalid. */
  readonly trailer: Headers | null | undefined;
}

/**
 * The error of a handler that threw or rejected. As in grpc-js, only the server sees what was thrown: it is the cause.
 */
export function thrownError(reason: unknown): ConnectError {
  return new ConnectError("Unknown error", Code.Unknown, undefined, undefined, reason);
}

/**
 * Reads the failure that a handler passed to its callback, or its stream's "error" event, as grpc-js does. It may be a
 * plain object, or have the code OK.
 * @param trailers passed in addition to the failure; replaces its metadata
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

/** The status of a failed call for grpc-js. */
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
    // The bytes are sent as ordinary metadata.
    return [];
  }
}
