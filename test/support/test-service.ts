/** What the test server does: the services of test/proto, and a record of what their handlers saw. */
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { crc32 } from "./checksum.js";
import { peerCredentials } from "../../src/index.js";
import { KindsService } from "../proto/kinds_pb.js";
import { RequiredSchema, RequiredService } from "../proto/required_pb.js";
import type { CountRequest, Item } from "../proto/streams_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import { EchoReplySchema, TestService } from "../proto/test_pb.js";

/** What became of a call of `Wait`. */
export interface Observation {
  milliseconds: number;
  /** What `context.timeoutMs()` said at the start. */
  timeoutMs: number | undefined;
  /** Whether the signal aborted while the handler was waiting. */
  aborted: boolean;
  /** Code and text of the signal's reason, once it has aborted. */
  code?: string;
  message?: string;
}

/** What the handlers of this process have seen so far. */
export const observations: Observation[] = [];

/** Registers all test services. */
export function testRoutes(router: ConnectRouter): void {
  router.service(TestService, {
    echo(request, context) {
      answerHeaders(context);
      return { text: request.text, number: request.number, data: request.data };
    },
    fail(request, context) {
      answerHeaders(context);
      if (request.plain) throw new Error(request.message);
      const details = request.details.map((text) => ({ desc: EchoReplySchema, value: { text } }));
      throw new ConnectError(request.message, request.code, { "x-failed": "yes", "x-detail-bin": "AAEC" }, details);
    },
    wait: (request, context) => wait(request.milliseconds, context),
    checksum({ sequence, data }) {
      return { sequence, checksum: crc32(data), data };
    },
    whoami(_, context) {
      const peer = context.values.get(peerCredentials);
      return { pid: peer?.pid ?? 0, uid: peer?.uid ?? 0, gid: peer?.gid ?? 0 };
    },
    async *count({ number }, context) {
      answerHeaders(context);
      for (let i = 0n; i < number; i++) yield await Promise.resolve({ number: i });
    },
  });
  router.service(KindsService, { echo: (request) => request });
  router.service(StreamService, {
    echo: (item, context) => {
      answerHeaders(context);
      return item;
    },
    count,
    async sum(items, context) {
      answerHeaders(context);
      const sums = { items: 0n, sum: 0n, dataBytes: 0n };
      for await (const { number, data } of items) {
        sums.items++;
        sums.sum += number;
        sums.dataBytes += BigInt(data.length);
      }
      return sums;
    },
    async *chat(items, context) {
      answerHeaders(context);
      for await (const item of items) yield item;
    },
  });
  router.service(RequiredService, {
    echo: (request) => request,
    forget: () => create(RequiredSchema),
  });
}

async function* count(
  { count, dataBytes, pauseMs, failCode, failMessage }: CountRequest,
  context: HandlerContext,
): AsyncGenerator<Pick<Item, "number" | "data">> {
  answerHeaders(context);
  const data = new Uint8Array(dataBytes);
  for (let number = 0n; number < count; number++) {
    if (pauseMs > 0) await sleep(pauseMs, undefined, { signal: context.signal });
    yield { number, data };
  }
  if (failCode !== 0) throw new ConnectError(failMessage, failCode, { "x-failed": "yes" });
}

/** Sends the request headers that start with "x-" back: as they are in the header, as "x-trailer-…" in the trailer. */
function answerHeaders(context: HandlerContext): void {
  context.requestHeader.forEach((value, name) => {
    if (!name.startsWith("x-")) return;
    context.responseHeader.set(name, value);
    context.responseTrailer.set(`x-trailer-${name.slice("x-".length)}`, value);
  });
}

function wait(milliseconds: number, context: HandlerContext): Promise<{ text: string }> {
  const { signal } = context;
  const seen: Observation = { milliseconds, timeoutMs: context.timeoutMs(), aborted: false };
  observations.push(seen);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve({ text: "waited" }), milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      seen.aborted = true;
      const reason: unknown = signal.reason;
      if (reason instanceof ConnectError) {
        seen.code = Code[reason.code];
        seen.message = reason.rawMessage;
      }
      reject(ConnectError.from(reason));
    });
  });
}
