/** What the main process and its children (servers, clients, codecs) say to each other over Node's IPC channel. */
import type { CodecAnswer, CodecTask } from "./codec/task.js";
import type { PayloadResults } from "./payloads/task.js";
import type { Feed, FeedResult } from "./streams/task.js";

/** What a client is to do. */
export interface Load {
  byteLength: number;
  /** Calls in flight: as many lanes, each of which makes one call after the other. */
  inFlight: number;
  /** The server hands the request's bytes back as they are, without looking at them. */
  echo: boolean;
  /** A pause before each call, so that the peers go to sleep; 0 for back to back. */
  pauseMs: number;
  /** No new calls are made after so many; null: no limit. */
  callsMax: number | null;
  /** New calls are made for this long. */
  durationMs: number;
}

/** What a client did. */
export interface Stretch {
  calls: number;
  /** From the first call to the last reply. */
  elapsedMs: number;
  /** Of the client's whole process: all its threads. */
  cpuMicros: number;
  /** Allocated on the client's V8 heap; null where Node cannot tell. */
  heapBytes: number | null;
  /** From each call to its promise. */
  callMs: Float64Array;
  /** The same calls with writing the request before and reading the reply after. */
  payloadMs: Float64Array;
}

export type ToChild =
  /** To a client: make calls. Answered with `stretch`. */
  | { type: "run"; load: Load }
  /** To a server or a gateway: how much processor time have you used? Answered with `usage`. */
  | { type: "usage" }
  /** To a gateway: where do you listen? Answered with `port`. */
  | { type: "port" }
  /** To a server of lines: how long did they take, since the question before? Answered with `delays`. */
  | { type: "delays" }
  /** To a contestant of the codec's part. Answered with `codec`. */
  | { type: "codec"; task: CodecTask }
  /** To the client of the payloads' part. Answered with `payloads`. */
  | { type: "payloads"; calls: number; rounds: number }
  /** To a client of the streams' part: take a stream. Answered with `feed`. */
  | { type: "feed"; feed: Feed }
  /** To a client of the streams' part: how fast is a plain copy? Answered with `copy`. */
  | { type: "copy" }
  /** Close and exit. */
  | { type: "stop" };

export type FromChild =
  | { type: "ready" }
  /** The peer cannot be loaded here. */
  | { type: "unavailable"; reason: string }
  | { type: "stretch"; stretch: Stretch }
  | { type: "usage"; cpuMicros: number }
  | { type: "port"; port: number }
  /** `delaysMs`: a fair sample of those of all lines. */
  | { type: "delays"; lines: number; delaysMs: Float64Array }
  | { type: "codec"; answer: CodecAnswer }
  | { type: "payloads"; results: PayloadResults }
  | { type: "feed"; result: FeedResult }
  | { type: "copy"; gigabytesPerSecond: number }
  /** Something broke; the child exits. `mismatch`: a payload was not what its sender wrote. */
  | { type: "failed"; message: string; mismatch: boolean };
