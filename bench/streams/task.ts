/** What the processes of this part agree on. */
import type { Source } from "../proto/bench_pb.js";

/** One stream from the server to the client. */
export interface Feed {
  readonly messages: number;
  readonly bytes: number;
  readonly source: Source;
  /** Every so many-th message is compared byte by byte, of the others the number and both ends; 1: all are. */
  readonly compareEvery: number;
}

export interface FeedResult {
  /** From the first message to the last, in milliseconds. */
  readonly elapsedMs: number;
}

/** Messages of a stream: of one peer, by the median of the rounds. */
export interface StreamRow {
  readonly peer: StreamPeerName;
  readonly name: string;
  readonly bytes: number;
  readonly messagesPerSecond: number;
  readonly gigabytesPerSecond: number;
  readonly microsPerMessage: number;
}

export const streamPeerNames = ["isthmus", "isthmus-socket", "connect"] as const;
export type StreamPeerName = (typeof streamPeerNames)[number];

export interface StreamResults {
  readonly rows: readonly StreamRow[];
  /** A plain copy of 1 MiB from one place of the heap to another, in 10⁹ bytes per second. */
  readonly copyGigabytesPerSecond: number;
}

/** Payloads that a sender of `prepared` messages writes before the stream, and takes in turn. */
export const preparedCount = 16;
