/** How a failed call travels: a ConnectError to status bytes and back. */
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { decodeHeaders } from "../wire/metadata.js";
import { decodeStatus, encodeStatus } from "../wire/status.js";

/** Anything a handler may throw becomes what Connect makes of it: a ConnectError as it is, all else an internal error. */
export function handlerError(reason: unknown): ConnectError {
  return reason instanceof ConnectError ? reason : new ConnectError("internal error", Code.Internal, undefined, undefined, reason);
}

export function encodeError(error: ConnectError): Uint8Array {
  return encodeStatus({
    code: error.code,
    message: error.rawMessage,
    details: error.details.map((detail) =>
      "desc" in detail
        ? { type: detail.desc.typeName, value: toBinary(detail.desc, create(detail.desc, detail.value)) }
        : { type: detail.type, value: detail.value },
    ),
  });
}

/**
 * @param code the frame's status code
 * @param status private memory with the status bytes
 * @param metadata headers and trailers of the response, as received
 */
export function decodeError(code: number, status: Uint8Array, metadata: Uint8Array | undefined): ConnectError {
  const known = code >= Code.Canceled && code <= Code.Unauthenticated ? (code as Code) : Code.Unknown;
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
