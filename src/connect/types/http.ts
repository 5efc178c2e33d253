/** Options for HTTP addresses, at both ends. Types only. */
import type { ClientSessionOptions, SecureClientSessionOptions } from "node:http2";
import type { Compression } from "@connectrpc/connect/protocol";

/** Transport options for HTTP addresses. Other addresses ignore them. */
export interface HttpTransportOptions {
  /** The protocol; gRPC by default. */
  readonly protocol?: "grpc" | "grpc-web" | "connect";
  /** Passed to `http2.connect`: `ca`, `cert`, `key`, `servername`, `settings`, … */
  readonly nodeOptions?: ClientSessionOptions | SecureClientSessionOptions;
  /**
   * Interval between PINGs on an HTTP/2 connection that has open calls and receives nothing, in milliseconds. After a
   * pause of the same length, the next call sends a PING first. 360,000 by default, because many gRPC servers treat
   * more than one PING in five minutes as abuse; an Isthmus server accepts any number.
   */
  readonly pingIntervalMs?: number;
  /** Time limit for the answer to a PING, in milliseconds; 15,000 by default. Then the connection is given up. */
  readonly pingTimeoutMs?: number;
  /** Whether a connection without calls is sent PINGs too; false by default. */
  readonly pingIdleConnection?: boolean;
  /** A connection without calls is closed after this time, in milliseconds; 900,000 by default. */
  readonly idleConnectionTimeoutMs?: number;
  /** Compressions accepted for responses, from `@connectrpc/connect-node`; none by default. */
  readonly acceptCompression?: readonly Compression[];
  /** Compression for requests; none by default. */
  readonly sendCompression?: Compression;
  /** Smallest request that is compressed, in bytes; 1024 by default. */
  readonly compressMinBytes?: number;
}

/** Limits for HTTP/1.1 at a server. */
export interface HttpServerOptions {
  /**
   * Time limit for receiving the headers of a request, in milliseconds; 60,000 by default, and at most
   * `requestTimeoutMs`. A client that takes longer gets status 408, and its connection is closed. 0 means no limit.
   */
  readonly headersTimeoutMs?: number;
  /**
   * Time limit for receiving a whole request, in milliseconds; 300,000 by default. A client stream is one request, so
   * the limit applies to it too. 0 means no limit.
   */
  readonly requestTimeoutMs?: number;
}

/** Cross-origin access for web pages that call a server over HTTP. */
export interface CorsOptions {
  /** Origins whose pages may call, such as `https://app.example`; `"*"`, the default, allows all. */
  readonly origins?: "*" | readonly string[];
  /** Whether calls may carry cookies and other credentials of the browser. Requires a list of `origins`. */
  readonly credentials?: boolean;
  /** Request headers that scripts may send in addition to Connect's own, for example `authorization`. */
  readonly allowedHeaders?: readonly string[];
  /**
   * Response headers that scripts may read in addition to Connect's own. Trailers of Connect's unary calls have the
   * prefix `trailer-`.
   */
  readonly exposedHeaders?: readonly string[];
  /** How long browsers may cache the answer to a preflight request, in seconds; 7200 by default. */
  readonly maxAgeSeconds?: number;
}
