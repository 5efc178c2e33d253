/** How a failed call travels: a ConnectError to status bytes and back. */
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { FileTooShort } from "../memory/mapped-file.js";
import { decodeHeaders } from "../wire/metadata.js";
import type { WireDetail } from "../wire/status.js";
import { decodeStatus, encodeStatus } from "../wire/status.js";

/**
 * Makes a first error, while nobody waits yet: each has `Headers`, and what they need Node loads when a thread asks for the first ones, which takes some
 * 20 ms. Else the first call that fails would stop its thread for so long.
 */
export function prepareErrors(): void {
  void new ConnectError("");
}

/** Anything a handler may throw becomes what Connect makes of it: a ConnectError as it is, all else an internal error. */
export function handlerError(reason: unknown): ConnectError {
  return reason instanceof ConnectError ? reason : new ConnectError("internal error", Code.Internal, undefined, undefined, reason);
}

/** Why a signal's abort ends a call: its own ConnectError, or Canceled. */
export function abortError(signal: AbortSignal): ConnectError {
  return ConnectError.from(signal.reason, Code.Canceled);
}

/** The status code that stands on the wire: whatever is none of Connect's codes is Unknown, and never 0, which means success. */
export function wireCode(code: Code): Code {
  return code >= Code.Canceled && code <= Code.Unauthenticated && Number.isInteger(code) ? code : Code.Unknown;
}

/** Never throws: details that cannot be encoded are left out. */
export function encodeError(error: ConnectError): Uint8Array {
  return encodeStatus({ code: wireCode(error.code), message: error.rawMessage, details: error.details.flatMap(encodeDetail) });
}

function encodeDetail(detail: ConnectError["details"][number]): WireDetail[] {
  if (!("desc" in detail)) return [{ type: detail.type, value: detail.value }];
  try {
    return [{ type: detail.desc.typeName, value: toBinary(detail.desc, create(detail.desc, detail.value)) }];
  } catch {
    // The caller still learns of the error itself.
    return [];
  }
}

/**
 * @param code the frame's status code
 * @param status private memory with the status bytes
 * @param metadata headers and trailers of the response, as received
 */
export function decodeError(code: number, status: Uint8Array, metadata: Uint8Array | undefined): ConnectError {
  const known = wireCode(code);
  let decoded;
  try {
    decoded = decodeStatus(status);
  } catch (error) {
    return new ConnectError("the server's error could not be read", known, decodeHeaders(metadata), undefined, error);
  }
  const result = new ConnectError(decoded.message, known, decodeHeaders(metadata));
  result.details = decoded.details.map(({ type, value }) => ({ type, value: value.slice() }));
  return result;
}

const PARTS = Symbol("parts");

/** The metadata of a failed response, which its error has in one. */
export interface ResponseParts {
  readonly header: Headers;
  readonly trailer: Headers;
}

/** Remembers which of an error's metadata came as headers, for those who have to tell them from trailers. */
export function rememberParts(error: ConnectError, header: Uint8Array, trailer: Uint8Array | undefined): void {
  Object.defineProperty(error, PARTS, { get: (): ResponseParts => ({ header: decodeHeaders(header), trailer: decodeHeaders(trailer) }) });
}

/** Undefined: its metadata are all trailers. */
export function partsOf(error: ConnectError): ResponseParts | undefined {
  return (error as { readonly [PARTS]?: ResponseParts })[PARTS];
}

export function tooLarge(byteLength: number, readMaxBytes: number): ConnectError {
  return new ConnectError(`message size ${byteLength} is larger than configured readMaxBytes ${readMaxBytes}`, Code.ResourceExhausted);
}

export function parseError(error: unknown): ConnectError {
  return new ConnectError(`parse binary: ${error instanceof Error ? error.message : String(error)}`, Code.Internal, undefined, undefined, error);
}

export function serializeError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof FileTooShort) return new ConnectError(error.message, Code.DataLoss, undefined, undefined, error);
  return new ConnectError(`serialize binary: ${error instanceof Error ? error.message : String(error)}`, Code.Internal, undefined, undefined, error);
}

/** There is no memory for a message that arrives. */
export function noMemory(byteLength: number, cause: unknown): ConnectError {
  return new ConnectError(`no memory for a message of ${byteLength} bytes`, Code.ResourceExhausted, undefined, undefined, cause);
}
