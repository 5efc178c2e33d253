/**
 * Errors of calls: made from any thrown value, and decoded from the peer's. Nothing here throws, whatever it is given.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { FileTooShort } from "../memory/payload/mapped-file.js";
import { TooManyValuesError } from "../codec/wire/work.js";
import { decodeHeaders } from "../wire/metadata.js";
import { decodeStatus } from "../wire/status.js";

/**
 * Makes an error ahead of the first call. Every ConnectError has `Headers`, whose implementation Node loads when a
 * thread first uses it. That takes about 20 ms, for which the first failing call would otherwise block its thread.
 */
export function prepareErrors(): void {
  void new ConnectError("");
}

/** The text of any thrown value. */
export function textOf(thrown: unknown): string {
  try {
    return thrown instanceof Error ? String(thrown.message) : String(thrown);
  } catch {
    return "a value that cannot be converted to text";
  }
}

/** `ConnectError.from` for any thrown value, including symbols, revoked proxies and objects whose fields throw. */
export function connectErrorOf(thrown: unknown, code: Code = Code.Unknown): ConnectError {
  try {
    return ConnectError.from(thrown, code);
  } catch {
    return new ConnectError(textOf(thrown), code, undefined, undefined, thrown);
  }
}

function isConnectError(thrown: unknown): thrown is ConnectError {
  try {
    return thrown instanceof ConnectError;
  } catch {
    return false;
  }
}

/**
 * Converts what a handler threw as Connect does: a ConnectError stays as it is, anything else becomes an internal
 * error.
 */
export function handlerError(thrown: unknown): ConnectError {
  return isConnectError(thrown)
    ? thrown
    : new ConnectError("internal error", Code.Internal, undefined, undefined, thrown);
}

/** The error of a call that a signal's abort ended: the signal's own ConnectError, or `Canceled`. */
export function abortError(signal: AbortSignal): ConnectError {
  let reason: unknown;
  try {
    reason = signal.reason;
  } catch (thrown) {
    reason = thrown;
  }
  return connectErrorOf(reason, Code.Canceled);
}

/**
 * The status code for the wire. Anything that is not one of Connect's codes becomes `Unknown`; the result is never 0,
 * which means success.
 */
export function wireCode(code: Code): Code {
  return code >= Code.Canceled && code <= Code.Unauthenticated && Number.isInteger(code) ? code : Code.Unknown;
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
    return received(
      new ConnectError("the server's error could not be read", known, decodeHeaders(metadata), undefined, error),
    );
  }
  const result = received(new ConnectError(decoded.message, known, decodeHeaders(metadata)));
  result.details = decoded.details.map(({ type, value }) => ({ type, value: value.slice() }));
  return result;
}

/**
 * Marks an error as received. Connect has had this field since version 2.3: a server that passes the error on leaves
 * its metadata out.
 */
export function received(error: ConnectError): ConnectError {
  (error as { isWireError?: boolean }).isWireError = true;
  return error;
}

/** Whether the error was received from another server. Then its metadata were meant for this process only. */
export function isReceived(error: ConnectError): boolean {
  return (error as { isWireError?: boolean }).isWireError === true;
}

const PARTS = Symbol("parts");

/** The headers and trailers of a failed response. Its error has them merged. */
export interface ResponseParts {
  readonly header: Headers;
  readonly trailer: Headers;
}

/** Records which of an error's metadata arrived as headers, for APIs that distinguish headers from trailers. */
export function rememberParts(error: ConnectError, header: Uint8Array, trailer: Uint8Array | undefined): void {
  Object.defineProperty(error, PARTS, {
    get: (): ResponseParts => ({ header: decodeHeaders(header), trailer: decodeHeaders(trailer) }),
  });
}

/** The recorded headers and trailers; undefined if all metadata are trailers. */
export function partsOf(error: ConnectError): ResponseParts | undefined {
  return (error as { readonly [PARTS]?: ResponseParts })[PARTS];
}

/** The error of a call for which nothing more is kept (KEPT-1). */
export function exhausted(kept: { explain(): string }): ConnectError {
  return new ConnectError(kept.explain(), Code.ResourceExhausted);
}

export function tooLarge(byteLength: number, readMaxBytes: number): ConnectError {
  return new ConnectError(
    `message size ${byteLength} is larger than configured readMaxBytes ${readMaxBytes}`,
    Code.ResourceExhausted,
  );
}

/** Which message of a call an error is about. */
export type MessageRole = "request" | "response";

/** The error for a message that arrived and cannot be decoded. @param path of the method */
export function parseError(thrown: unknown, role: MessageRole, path: string): ConnectError {
  const side = role === "request" ? "server" : "client";
  if (thrown instanceof TooManyValuesError)
    return new ConnectError(
      `the ${role} of ${path} consists of more than ${thrown.valuesMax} values, the ${side}'s limit (limits.valuesPerMessage); send less in one message`,
      Code.ResourceExhausted,
    );
  return new ConnectError(
    `parse binary: ${textOf(thrown)} (the ${role} of ${path}, as the ${side} reads it)`,
    Code.Internal,
    undefined,
    undefined,
    thrown,
  );
}

/** The error for a message, or its metadata, that cannot be sent. @param path of the method */
export function serializeError(thrown: unknown, role: MessageRole, path: string): ConnectError {
  if (isConnectError(thrown)) return thrown;
  const text = textOf(thrown);
  if (isFileTooShort(thrown)) return new ConnectError(text, Code.DataLoss, undefined, undefined, thrown);
  const side = role === "request" ? "client" : "server";
  return new ConnectError(
    `serialize binary: ${text} (the ${role} of ${path}, as the ${side} writes it)`,
    Code.Internal,
    undefined,
    undefined,
    thrown,
  );
}

function isFileTooShort(thrown: unknown): boolean {
  try {
    return thrown instanceof FileTooShort;
  } catch {
    return false;
  }
}

/** The error for a message that arrives and finds no memory. */
export function noMemory(byteLength: number, cause: unknown): ConnectError {
  return new ConnectError(
    `no memory for a message of ${byteLength} bytes`,
    Code.ResourceExhausted,
    undefined,
    undefined,
    cause,
  );
}
