/**
 * A small web server with an access log: `node web-server.js LOG`. A separate process, so that the process that follows
 * the log does not write it. Sends its port to its parent. When told to stop, it answers open requests, writes the rest
 * of the log, and reports how many lines it has written.
 */
import { createWriteStream } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { accessLogLine } from "./access-log.js";

export interface WebServerReady {
  readonly port: number;
}

export interface WebServerStopped {
  readonly linesWritten: number;
}

const log = createWriteStream(process.argv[2], { flags: "a" });
let linesWritten = 0;

const server = createServer((request, response) => {
  const status = statusOf(request);
  const body = `${status} ${request.method} ${request.url}\n`;
  response.writeHead(status, {
    "content-type": "text/plain",
    "content-length": Buffer.byteLength(body),
    ...(status === 302 ? { location: "/" } : {}),
  });
  response.end(request.method === "HEAD" ? undefined : body);
  response.on("close", () => record(request, response, Buffer.byteLength(body)));
});
server.listen(0, "127.0.0.1", () =>
  process.send?.({ port: (server.address() as AddressInfo).port } satisfies WebServerReady),
);

process.on("SIGINT", () => undefined);
process.on("disconnect", () => process.exit());
process.on("message", () => {
  server.close(() => log.end(() => process.send?.({ linesWritten } satisfies WebServerStopped)));
  server.closeIdleConnections();
});

function record(request: IncomingMessage, response: ServerResponse, bodyBytes: number): void {
  log.write(
    accessLogLine({
      client: request.socket.remoteAddress ?? "127.0.0.1",
      time: new Date(),
      request: `${request.method} ${request.url} HTTP/${request.httpVersion}`,
      status: response.statusCode,
      bytes: request.method === "HEAD" ? 0 : bodyBytes,
      referrer: request.headers.referer ?? "-",
      agent: request.headers["user-agent"] ?? "-",
    }),
  );
  linesWritten++;
}

function statusOf({ method, url = "/" }: IncomingMessage): number {
  const path = url.split("?", 1)[0];
  if (path === "/api/login") return method === "POST" ? 302 : 405;
  if (path === "/api/report") return 500;
  if (path === "/api/orders" && method === "POST") return 201;
  if (method === "DELETE") return 204;
  if (path === "/" || path.startsWith("/api/") || path.startsWith("/static/")) return 200;
  return 404;
}
