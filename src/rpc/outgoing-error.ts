/**
 * Encodes the errors of failed calls. An error comes from user code: its fields may be missing, have any type, or throw
 * when they are read. Each field is read once.
 *
 * ERROR-1  Whatever was thrown, the code and the text are encoded. Parts that cannot be sent are left out, and the text
 *          says so.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import type { Code, ConnectError } from "@connectrpc/connect";
import { METADATA_BYTES_MAX, STATUS_BYTES_MAX } from "../wire/frame.js";
import { encodeMetadata } from "../wire/metadata.js";
import type { WireDetail } from "../wire/status.js";
import { encodeStatus } from "../wire/status.js";
import { isReceived, textOf, wireCode } from "./errors.js";

/** Headers and trailers that the handler has set. An error is sent together with them. */
export interface ResponseMetadata {
  readonly responseHeaderIfAny: Headers | undefined;
  readonly responseTrailerIfAny: Headers | undefined;
}

export interface OutgoingError {
  readonly code: Code;
  /** The bytes of a `google.rpc.Status`, at most `STATUS_BYTES_MAX`. */
  readonly status: Uint8Array;
  /** Headers, trailers and the error's own metadata, in this order; at most `METADATA_BYTES_MAX`. */
  readonly metadata: Uint8Array | undefined;
  /** How many of its bytes are headers. */
  readonly headerLength: number;
}

/** More details than any reader needs. An array whose length lies must not be followed further. */
const DETAILS_MAX = 1000;
/** Most reasons that the text gives for parts that were left out. */
const REASONS_MAX = 5;
/** Length to which a text is cut that is too long, in bytes. */
const LONG_TEXT_BYTES = STATUS_BYTES_MAX >> 1;

/**
 * Never throws (ERROR-1).
 * @param response undefined if it has been sent already, or there is none
 */
export function encodeError(
  error: ConnectError,
  response: ResponseMetadata | undefined,
  withHeaders: boolean,
): OutgoingError {
  const omitted: string[] = [];
  const metadata = new MetadataParts(omitted);
  if (withHeaders) metadata.add("response headers", () => response?.responseHeaderIfAny);
  const headerLength = metadata.byteLength;
  metadata.add("response trailers", () => response?.responseTrailerIfAny);
  metadata.add("metadata", () => (isReceived(error) ? undefined : error.metadata), withoutProtocolNames);
  const code = attempt(() => wireCode(error.code)) ?? wireCode(NaN);
  const details = readDetails(error, omitted);
  return {
    code,
    status: statusBytes(code, readText(error), details, omitted),
    metadata: metadata.joined(),
    headerLength,
  };
}

function statusBytes(code: Code, text: string, details: readonly WireDetail[], omitted: string[]): Uint8Array {
  const status = encodeStatus({ code, message: withReasons(text, omitted), details });
  if (status.length <= STATUS_BYTES_MAX) return status;
  omitted.push(`details and text of ${status.length} bytes are larger than the limit of ${STATUS_BYTES_MAX}`);
  const whole = Buffer.from(text);
  const message = whole.length <= LONG_TEXT_BYTES ? text : whole.toString("utf8", 0, LONG_TEXT_BYTES);
  return encodeStatus({ code, message: withReasons(message, omitted), details: [] });
}

function withReasons(text: string, omitted: readonly string[]): string {
  if (omitted.length === 0) return text;
  const more = omitted.length > REASONS_MAX ? `; and ${omitted.length - REASONS_MAX} more` : "";
  return `${text} (left out of this error: ${omitted.slice(0, REASONS_MAX).join("; ")}${more})`;
}

function readText(error: ConnectError): string {
  const text: unknown = attempt(() => error.rawMessage);
  return typeof text === "string" ? text : (attempt(() => textOf(error)) ?? "an error whose text cannot be read");
}

function readDetails(error: ConnectError, omitted: string[]): WireDetail[] {
  const details: WireDetail[] = [];
  try {
    const given: unknown = error.details;
    if (given === undefined || given === null) return details;
    if (!Array.isArray(given)) {
      omitted.push("its details are not a list");
      return details;
    }
    const { length } = given;
    for (let i = 0; i < length && i < DETAILS_MAX; i++) {
      try {
        details.push(readDetail(given[i]));
      } catch (reason) {
        omitted.push(`detail ${i + 1}: ${textOf(reason)}`);
      }
    }
    if (length > DETAILS_MAX) omitted.push(`all but the first ${DETAILS_MAX} of its details`);
  } catch (reason) {
    omitted.push(`its details cannot be read: ${textOf(reason)}`);
  }
  return details;
}

/** @throws whatever is wrong with the detail */
function readDetail(given: unknown): WireDetail {
  if (typeof given !== "object" || given === null) throw new TypeError(EXPECTED_DETAIL);
  if ("desc" in given) {
    const { desc, value } = given as Extract<ConnectError["details"][number], { desc: unknown }>;
    return { type: String(desc.typeName), value: toBinary(desc, create(desc, value)) };
  }
  const { type, value } = given as { type?: unknown; value?: unknown };
  if (typeof type !== "string" || !ArrayBuffer.isView(value)) throw new TypeError(EXPECTED_DETAIL);
  return { type, value: new Uint8Array(value.buffer, value.byteOffset, value.byteLength).slice() };
}

const EXPECTED_DETAIL = "expected { desc, value } with a message's schema and value, or { type, value } with bytes";

/** Collects an error's metadata within the size limit. */
class MetadataParts {
  byteLength = 0;
  private readonly omitted: string[];
  private readonly parts: Uint8Array[] = [];

  constructor(omitted: string[]) {
    this.omitted = omitted;
  }

  /** @param read may throw, and may return anything */
  add(name: string, read: () => unknown, filter: (headers: Headers) => Headers = (headers) => headers): void {
    try {
      const given = read();
      if (given === undefined || given === null) return;
      const bytes = encodeMetadata(filter(given instanceof Headers ? given : this.headersOf(given, name)));
      if (this.byteLength + bytes.length > METADATA_BYTES_MAX) {
        this.omitted.push(
          `${name} of ${bytes.length} bytes, which do not fit within the limit of ${METADATA_BYTES_MAX}`,
        );
        return;
      }
      this.parts.push(bytes);
      this.byteLength += bytes.length;
    } catch (reason) {
      this.omitted.push(`${name}: ${textOf(reason)}`);
    }
  }

  /**
   * Converts values that are not `Headers` but similar: `Headers` of another implementation, pairs, or an object.
   * @throws whatever is wrong with the value
   */
  private headersOf(given: unknown, name: string): Headers {
    if (typeof given !== "object" || given === null) throw new TypeError(`expected Headers, not ${typeof given}`);
    const headers = new Headers();
    const entries = Symbol.iterator in given ? (given as Iterable<unknown>) : Object.entries(given);
    for (const entry of entries) {
      try {
        const [key, value] = entry as [string, string];
        headers.append(key, value);
      } catch (reason) {
        this.omitted.push(`an entry of its ${name}: ${textOf(reason)}`);
      }
    }
    return headers;
  }

  joined(): Uint8Array | undefined {
    return this.byteLength === 0 ? undefined : Buffer.concat(this.parts);
  }
}

/**
 * Names of HTTP, Connect and gRPC. Connect's servers leave them out of an error's metadata. `grpc-status-details-bin`
 * stays in, because grpc-js's clients read it.
 */
const PROTOCOL_NAMES = [
  ...[
    "content-type",
    "content-length",
    "content-encoding",
    "host",
    "user-agent",
    "trailer",
    "date",
    "accept-encoding",
    "trailer-",
  ],
  ...["connect-content-encoding", "connect-accept-encoding", "connect-timeout-ms", "connect-protocol-version"],
  ...["grpc-encoding", "grpc-accept-encoding", "grpc-timeout", "grpc-status", "grpc-message"],
];

function withoutProtocolNames(headers: Headers): Headers {
  let sent = headers;
  for (const name of PROTOCOL_NAMES) {
    if (!headers.has(name)) continue;
    if (sent === headers) sent = new Headers(headers);
    sent.delete(name);
  }
  return sent;
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
