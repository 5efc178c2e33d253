/**
 * Makes handlers' errors safe to send over HTTP. Connect encodes an error's parts without checking them, and an invalid
 * part would leave the call without an answer. So parts that cannot be sent are left out; code and text are always
 * sent.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import type { Interceptor, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { isReceived, received, wireCode } from "../../rpc/errors.js";

type Detail = ConnectError["details"][number];

/** Headers of the connection, or of the response's body. */
const NOT_METADATA = [
  "connection",
  "content-encoding",
  "content-length",
  "content-type",
  "http2-settings",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

/** For servers, outside all other interceptors. */
export const soundErrors: Interceptor = (next) => async (request) => {
  try {
    const response = await next(request);
    return response.stream
      ? { ...response, message: withSoundErrors(response.message) }
      : (response satisfies UnaryResponse);
  } catch (error) {
    throw soundError(error);
  }
};

async function* withSoundErrors<M>(messages: AsyncIterable<M>): AsyncGenerator<M> {
  try {
    yield* messages;
  } catch (error) {
    throw soundError(error);
  }
}

/** Makes an error that can be sent from any thrown value. Never throws. */
export function soundError(reason: unknown): ConnectError {
  try {
    if (reason instanceof ConnectError) return isSound(reason) ? reason : rebuilt(reason);
  } catch {
    // A proxy or a getter that throws.
  }
  return new ConnectError("internal error", Code.Internal, undefined, undefined, reason);
}

function isSound({ code, rawMessage, metadata, details }: ConnectError): boolean {
  return (
    wireCode(code) === code &&
    wellFormed(rawMessage) === rawMessage &&
    metadata instanceof Headers &&
    !NOT_METADATA.some((name) => metadata.has(name)) &&
    Array.isArray(details) &&
    details.every(isDetail)
  );
}

function rebuilt(error: ConnectError): ConnectError {
  const { code, rawMessage, metadata, details } = error as Partial<Record<keyof ConnectError, unknown>>;
  const left: string[] = [];
  const headers = metadata instanceof Headers ? new Headers(metadata) : new Headers();
  for (const name of NOT_METADATA) headers.delete(name);
  if (!(metadata instanceof Headers) && metadata !== undefined) left.push("its metadata");
  const sound = Array.isArray(details) ? details.filter(isDetail) : [];
  const lost = Array.isArray(details) ? details.length - sound.length : Number(details !== undefined);
  if (lost > 0) left.push(lost === 1 ? "one of its details" : `${lost} of its details`);
  const note = left.length === 0 ? "" : ` (${left.join(" and ")} could not be sent)`;
  const result = new ConnectError(
    `${wellFormed(rawMessage)}${note}`,
    wireCode(code as Code),
    headers,
    undefined,
    error,
  );
  result.details = sound;
  return isReceived(error) ? received(result) : result;
}

function isDetail(detail: unknown): detail is Detail {
  try {
    const { desc, type, value } = detail as { desc?: Parameters<typeof create>[0]; type?: unknown; value?: unknown };
    if (desc === undefined) return typeof type === "string" && value instanceof Uint8Array;
    toBinary(desc, create(desc, value as Record<string, unknown>));
    return true;
  } catch {
    return false;
  }
}

/** The text without lone surrogates, which UTF-8 cannot encode. */
function wellFormed(text: unknown): string {
  return typeof text === "string" ? text.replace(/[\ud800-\udfff]/gu, "\ufffd") : "internal error";
}
