/**
 * Which of the runner's cases are run over our own carriers. In mode "both" the runner leaves out the suites that are
 * for a client or a server only; some of these have nothing to do with HTTP and are run as well. All others are named
 * here, and so are cases that a client over HTTP is known not to pass.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Runner } from "./runner.js";

const FOLDER = "internal/app/connectconformance/testsuites/data";

/** For a client or a server only, by the runner's own account. */
export const oneSided: readonly string[] = ["Client Cancellation", "Server Empty Requests", "Server Message Size"];

export const inapplicable: readonly (readonly [reason: string, suites: readonly string[]])[] = [
  [
    "HTTP answers, written byte by byte, that no client of an HTTP protocol should meet",
    [
      "HTTP to RPC Code Mapping",
      "Unexpected Responses",
      "Connect Compressed Error and End-Stream",
      "Connect Empty Responses",
      "Connect Error and End-Stream",
      "Connect Unexpected Responses",
      "gRPC Empty Responses",
      "gRPC Proto Sub-Format Responses",
      "gRPC Trailers",
      "gRPC Unexpected Responses",
      "gRPC-Web Compressed Trailers",
      "gRPC-Web Empty Responses",
      "gRPC-Web Proto Sub-Format Responses",
      "gRPC-Web Trailers",
      "gRPC-Web Unexpected Responses",
    ],
  ],
  [
    "HTTP requests, written byte by byte, that no server of an HTTP protocol should meet",
    [
      "Unexpected Requests",
      "Connect Unexpected Requests",
      "gRPC Proto Sub-Format Requests",
      "gRPC Unexpected Requests",
      "gRPC-Web Proto Sub-Format Requests",
      "gRPC-Web Unexpected Requests",
    ],
  ],
  ["the HTTP status that stands for a code", ["Connect to HTTP Code Mapping"]],
  ["calls as HTTP GET requests", ["Connect with GET"]],
  ["certificates: the kernel says who the peer is", ["TLS Client Certs"]],
];

/** Patterns of cases that Connect's own client does not pass, and so ours over HTTP does not. */
export const httpClientFailures: readonly (readonly [pattern: string, reason: string])[] = [
  ["*/HTTPVersion:2/*/server-stream/incomplete-message", "an answer that is cut off is InvalidArgument, not Internal"],
  ["*/HTTPVersion:2/*/server-stream/incomplete-message-prefix", "likewise"],
  ["Connect Unexpected Responses/**/no-end-stream", "likewise"],
  [
    "Basic/HTTPVersion:2/Protocol:PROTOCOL_GRPC_WEB/**/(grpc server impl)/bidi-stream/half-duplex/no-responses",
    "where a gRPC-Web answer has headers only, trailers are among them, and are taken for headers",
  ],
];

export interface Suite {
  readonly name: string;
  readonly text: string;
}

export function suitesOf(runner: Runner): Suite[] {
  const folder = join(runner.sources, FOLDER);
  return readdirSync(folder)
    .filter((file) => file.endsWith(".yaml"))
    .map((file) => {
      const text = readFileSync(join(folder, file), "utf8");
      const name = /^name: *(.+?) *$/m.exec(text)?.[1];
      if (name === undefined) throw new Error(`${file} does not say what the suite is called`);
      return { name, text };
    });
}

/** The suite as one for any mode. @throws Error if it is that already */
export function forBothSides({ name, text }: Suite): Suite {
  const changed = text.replace(/^mode: *TEST_MODE_(CLIENT|SERVER) *$/m, "");
  if (changed === text) throw new Error(`the suite ${name} is for both sides as it is`);
  return { name, text: changed };
}
