/**
 * Responses of HTTP/2 without the headers that HTTP/2 forbids. SUBTLE: Node throws for a forbidden trailer when the
 * trailers are sent, which is into the event loop.
 */
import type { OutgoingHttpHeaders } from "node:http";
import { Http2ServerResponse } from "node:http2";

/** Headers of HTTP/1.1 connections. A handler may get them from another server's response that it passes on. */
const FORBIDDEN = [
  "connection",
  "http2-settings",
  "keep-alive",
  "proxy-connection",
  "te",
  "transfer-encoding",
  "upgrade",
];

export class Http2Response extends Http2ServerResponse {
  override writeHead(status: number, headers?: OutgoingHttpHeaders | string, more?: OutgoingHttpHeaders): this {
    if (typeof headers === "string") return super.writeHead(status, headers, more && allowed(more));
    return super.writeHead(status, headers && allowed(headers));
  }

  override addTrailers(trailers: OutgoingHttpHeaders): void {
    super.addTrailers(allowed(trailers));
  }
}

function allowed(headers: OutgoingHttpHeaders): OutgoingHttpHeaders {
  if (!FORBIDDEN.some((name) => name in headers)) return headers;
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !FORBIDDEN.includes(name)));
}
