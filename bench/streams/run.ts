/**
 * Measures streams from a server to a client: small messages against Connect's, large ones against a plain copy, loaned
 * ones against small ones.
 */
import { join } from "node:path";
import type { Verdict } from "../bars.js";
import { Child, nodeProgram, startTimeoutMs } from "../child-process.js";
import type { Cores } from "../machine.js";
import { median } from "../measure.js";
import { Source } from "../proto/bench_pb.js";
import { streamPeerNames, type Feed, type StreamPeerName, type StreamResults, type StreamRow } from "./task.js";

export interface StreamPace {
  readonly rounds: number;
  /** What of each feed's messages is sent in one round. */
  readonly share: number;
}

export const streamPaces = {
  full: { rounds: 7, share: 1 },
  quick: { rounds: 3, share: 0.2 },
  smoke: { rounds: 1, share: 0.0005 },
} satisfies Record<string, StreamPace>;

const timeoutMs = 120_000;

interface Part {
  readonly name: string;
  readonly feed: Feed;
  readonly peers: readonly StreamPeerName[];
}

const parts: readonly Part[] = [
  {
    name: "64 B",
    feed: { messages: 400_000, bytes: 64, source: Source.PREPARED, compareEvery: 1 },
    peers: ["isthmus", "isthmus-socket"],
  },
  { name: "64 B", feed: { messages: 20_000, bytes: 64, source: Source.PREPARED, compareEvery: 1 }, peers: ["connect"] },
  {
    name: "1 MiB, moved",
    feed: { messages: 3_000, bytes: 1 << 20, source: Source.PREPARED, compareEvery: 16 },
    peers: ["isthmus", "isthmus-socket"],
  },
  {
    name: "1 MiB, prepared",
    feed: { messages: 1_500, bytes: 1 << 20, source: Source.PREPARED, compareEvery: 1 },
    peers: ["isthmus", "isthmus-socket"],
  },
  {
    name: "1 MiB, written anew",
    feed: { messages: 1_000, bytes: 1 << 20, source: Source.UNSPECIFIED, compareEvery: 1 },
    peers: ["isthmus", "isthmus-socket"],
  },
  {
    name: "1 MiB, written anew",
    feed: { messages: 200, bytes: 1 << 20, source: Source.UNSPECIFIED, compareEvery: 1 },
    peers: ["connect"],
  },
  {
    name: "64 B, paced as loans",
    feed: { messages: 20_000, bytes: 64, source: Source.UNSPECIFIED, compareEvery: 1 },
    peers: ["isthmus"],
  },
  {
    name: "64 MiB, loaned",
    feed: { messages: 20_000, bytes: 64 << 20, source: Source.LOANED, compareEvery: 1 },
    peers: ["isthmus"],
  },
];

/** Rejects if a process breaks, or a message is not what was sent. */
export async function runStreams(
  { rounds, share }: StreamPace,
  cores: Cores,
  directory: string,
): Promise<StreamResults> {
  const started: Child[] = [];
  const start = async (role: "streams/server" | "streams/client", peer: StreamPeerName, core: string | null) => {
    const child = new Child(nodeProgram(role, [peer, join(directory, `streams-${peer}.sock`)]), core);
    started.push(child);
    await child.next("ready", startTimeoutMs);
    return child;
  };
  try {
    const clients = new Map<StreamPeerName, Child>();
    for (const peer of streamPeerNames) {
      await start("streams/server", peer, cores.server);
      clients.set(peer, await start("streams/client", peer, cores.client));
    }
    const contests = parts.flatMap(({ name, feed, peers }) =>
      peers.map((peer) => ({
        name,
        feed: { ...feed, messages: Math.ceil(feed.messages * share) + 10 },
        peer,
        micros: [] as number[],
      })),
    );
    const copies: number[] = [];
    // The first round warms up.
    for (let round = 0; round <= rounds; round++) {
      for (const { feed, peer, micros } of contests) {
        const { result } = await clients.get(peer)!.ask({ type: "feed", feed }, "feed", timeoutMs);
        if (round > 0) micros.push((result.elapsedMs * 1_000) / (feed.messages - 1));
      }
      copies.push((await clients.get("isthmus")!.ask({ type: "copy" }, "copy", timeoutMs)).gigabytesPerSecond);
    }
    const rows = contests.map(({ name, feed, peer, micros }): StreamRow => {
      const microsPerMessage = median(micros)!;
      return {
        peer,
        name,
        bytes: feed.bytes,
        messagesPerSecond: 1e6 / microsPerMessage,
        gigabytesPerSecond: feed.bytes / microsPerMessage / 1_000,
        microsPerMessage,
      };
    });
    return { rows, copyGigabytesPerSecond: median(copies)! };
  } finally {
    await Promise.all(started.map((child) => child.stop()));
  }
}

export const streamsLegend =
  "Streams from the server: from the first message to the last. Every byte is compared on arrival, of loans the first and the last.\n" +
  "prepared: the sender has written the payloads before the stream; written anew: each before it is sent; moved: as prepared, but the\n" +
  "receiver compares one message in 16, and of the others both ends, so that it does not wait for the comparison.";

export function formatStreams({ rows, copyGigabytesPerSecond }: StreamResults): string {
  const lines = rows.map(
    ({ name, peer, messagesPerSecond, gigabytesPerSecond, microsPerMessage }) =>
      `  ${name.padEnd(22)} ${peer.padEnd(15)} ${Math.round(messagesPerSecond).toLocaleString("en").padStart(11)} messages/s ${gigabytesPerSecond.toFixed(3).padStart(10)} GB/s ${microsPerMessage.toFixed(2).padStart(10)} µs each`,
  );
  return [...lines, `  a plain copy of 1 MiB: ${copyGigabytesPerSecond.toFixed(1)} GB/s`].join("\n");
}

export function judgeStreams({ rows, copyGigabytesPerSecond }: StreamResults): Verdict[] {
  const find = (name: string, peer: StreamPeerName) => rows.find((row) => row.name === name && row.peer === peer)!;
  const small = find("64 B", "isthmus").messagesPerSecond;
  const atLeast = Math.min(1e6, 50 * find("64 B", "connect").messagesPerSecond);
  const large = find("1 MiB, moved", "isthmus").gigabytesPerSecond / copyGigabytesPerSecond;
  const over =
    find("64 MiB, loaned", "isthmus").microsPerMessage - find("64 B, paced as loans", "isthmus").microsPerMessage;
  return [
    {
      asked: "streams: messages/s at least 1,000,000 or 50× Connect's, whichever is lower",
      scenario: "64 B",
      measured: small,
      atLeast,
      unit: "messages/s",
      holds: small >= atLeast,
    },
    {
      asked: "streams: heap messages at 0.5× a plain copy",
      scenario: "1 MiB",
      measured: large,
      atLeast: 0.5,
      holds: large >= 0.5,
    },
    {
      asked: "streams: a loaned 64 MiB message over one of 64 B at most 10 µs",
      scenario: "64 MiB",
      measured: over,
      atMost: 10,
      unit: "µs",
      holds: over <= 10,
    },
  ];
}
