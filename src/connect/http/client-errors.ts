/** Converts failures of HTTP connections to the errors that other carriers report. */
import { Code, ConnectError } from "@connectrpc/connect";

/** The error for a connection to `name` that could not be made. */
export function connectionFailure(name: string, reason: unknown): ConnectError {
  const found = codesOf(reason);
  const make = (text: string, code: Code) =>
    new ConnectError(`connect to ${name}: ${text}`, code, undefined, undefined, reason);
  if (found.has("ECONNREFUSED")) return make("nobody listens there", Code.Unavailable);
  if (found.has("ENOTFOUND")) return make("no such host", Code.Unavailable);
  if (found.has("EAI_AGAIN")) return make("the host's name cannot be resolved now", Code.Unavailable);
  if (found.has("EHOSTUNREACH") || found.has("ENETUNREACH"))
    return make("there is no route to that host", Code.Unavailable);
  if (found.has("EMFILE") || found.has("ENFILE"))
    return make(
      "no descriptor left for another connection; raise the limit of open files (ulimit -n)",
      Code.ResourceExhausted,
    );
  if (found.has("ERR_SSL_WRONG_VERSION_NUMBER") || found.has("ERR_SSL_PACKET_LENGTH_TOO_LONG") || found.has("EPROTO")) {
    return make("the server there does not speak TLS; is it http:// instead of https://?", Code.Unavailable);
  }
  const certificate = [...found].find((code) => /CERT|SELF_SIGNED|ISSUER|ALTNAME/.test(code));
  if (certificate !== undefined) {
    return make(
      `the server's certificate is not accepted (${certificate}): ${textOf(reason)}; pass a \`ca\` in nodeOptions to accept it`,
      Code.Unavailable,
    );
  }
  if (found.has("ERR_HTTP2_ERROR") || found.has("ERR_HTTP2_SESSION_ERROR"))
    return make("the server there does not speak HTTP/2", Code.Unavailable);
  if (found.has("ECONNRESET") || found.has("EPIPE"))
    return make(
      "the server there closed the connection before it answered; is it https:// instead of http://, or is the server full?",
      Code.Unavailable,
    );
  return make(textOf(reason), ConnectError.from(reason, Code.Unavailable).code);
}

/**
 * Converts the errors that Connect reports to calls when their connection is lost, such as a reset stream or a socket's
 * error, to `Unavailable`, as with other carriers. Other errors are returned as they are.
 * @param isConnected whether the connection still exists. Then only the stream was reset
 */
export function lostConnection(name: string, error: unknown, isConnected: boolean): unknown {
  if (!(error instanceof ConnectError) || error.details.length > 0) return error;
  const found = codesOf(error);
  const isSocket = [
    "ECONNRESET",
    "EPIPE",
    "ETIMEDOUT",
    "ERR_HTTP2_SESSION_ERROR",
    "ERR_STREAM_PREMATURE_CLOSE",
    "ERR_HTTP2_STREAM_CANCEL",
  ].some((code) => found.has(code));
  if (found.has("ERR_HTTP2_ERROR"))
    return new ConnectError(
      `connection to ${name} lost: ${error.rawMessage}; does the server there speak HTTP/2?`,
      Code.Unavailable,
      undefined,
      undefined,
      error,
    );
  if (found.has("ERR_HTTP2_STREAM_ERROR") && error.rawMessage.includes("NGHTTP2_REFUSED_STREAM")) {
    return new ConnectError(
      `the server at ${name} is going away and did not take the call: ${error.rawMessage}`,
      Code.Unavailable,
      undefined,
      undefined,
      error,
    );
  }
  if (!isSocket && (!isReset(error) || isConnected)) return error;
  return new ConnectError(
    `connection to ${name} lost: ${error.rawMessage}`,
    Code.Unavailable,
    undefined,
    undefined,
    error,
  );
}

/** Whether the error means that the server canceled the stream. */
export function isReset(error: unknown): boolean {
  return (
    error instanceof ConnectError &&
    error.code === Code.Canceled &&
    /^http\/2 stream closed with error code/.test(error.rawMessage)
  );
}

/** The codes of an error and of its causes. */
function codesOf(reason: unknown): Set<string> {
  const found = new Set<string>();
  const seen = new Set<unknown>();
  for (let error = reason; error instanceof Error && !seen.has(error); error = error.cause) {
    seen.add(error);
    if ("code" in error && typeof error.code === "string") found.add(error.code);
    // An AggregateError has one error for each address of a host name.
    if (error instanceof AggregateError)
      for (const one of error.errors) for (const code of codesOf(one)) found.add(code);
  }
  return found;
}

function textOf(reason: unknown): string {
  if (reason instanceof ConnectError) return reason.rawMessage;
  return reason instanceof Error ? reason.message : String(reason);
}
