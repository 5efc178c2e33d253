/** Rules for the options of clients. */
import type {
  BlockingCallOptions,
  BlockingClientOptions,
  ConnectOptions,
  IsthmusTransportOptions,
  ReconnectOptions,
} from "../types/client.js";
import type { HttpTransportOptions } from "../types/http.js";
import type { RulesOf } from "./common-rules.js";
import {
  basic,
  common,
  compression,
  compressions,
  defaultTimeoutMs,
  duration,
  durationOrNone,
  objectsFrom,
} from "./common-rules.js";
import { DEFAULTS } from "./defaults.js";
import type { Kind, Rule } from "./kinds.js";
import {
  address,
  addresses,
  boolean,
  functionOf,
  groupOf,
  interceptors,
  numberOf,
  objectOf,
  oneOf,
  signal,
  without,
} from "./kinds.js";

const headers: Kind = { type: "what `new Headers` takes", complaint: () => undefined };

const http = {
  protocol: { kind: oneOf("grpc", "grpc-web", "connect"), byDefault: '"grpc"', meaning: "HTTP: the protocol" },
  nodeOptions: {
    kind: objectOf("object", "an object of options for http2.connect"),
    byDefault: "none",
    meaning: "HTTP: options for `http2.connect`, such as `ca`, `cert` and `key`",
  },
  pingIntervalMs: {
    kind: duration,
    byDefault: DEFAULTS.pingIntervalMs,
    meaning: "HTTP: interval between PINGs on a quiet connection with open calls",
  },
  pingTimeoutMs: { kind: duration, byDefault: 15_000, meaning: "HTTP: time limit for the answer to a PING" },
  pingIdleConnection: {
    kind: boolean,
    byDefault: "false",
    meaning: "HTTP: whether a connection without calls is sent PINGs too",
  },
  idleConnectionTimeoutMs: {
    kind: duration,
    byDefault: 900_000,
    meaning: "HTTP: a connection without calls is closed after this time",
  },
  acceptCompression: {
    kind: compressions,
    byDefault: "none",
    meaning: `HTTP: compressions accepted for responses, ${objectsFrom}`,
  },
  sendCompression: { kind: compression, byDefault: "none", meaning: "HTTP: compression for requests" },
  compressMinBytes: {
    kind: numberOf({ unit: "bytes" }),
    byDefault: 1024,
    meaning: "HTTP: smallest request that is compressed",
  },
} satisfies RulesOf<HttpTransportOptions>;

const reconnect = {
  initialDelayMs: {
    kind: duration,
    byDefault: DEFAULTS.initialDelayMs,
    meaning: "Pause after the first failed attempt; each further pause is 1.6 times as long",
  },
  maxDelayMs: {
    kind: duration,
    byDefault: DEFAULTS.maxDelayMs,
    meaning: "Longest pause, not less than `initialDelayMs`",
  },
  giveUpAfterMs: {
    kind: duration,
    byDefault: DEFAULTS.giveUpAfterMs,
    meaning: "How long a call without a deadline waits for a connection; `Infinity` waits forever",
  },
} satisfies RulesOf<ReconnectOptions>;

const waitForReady: Rule = {
  kind: boolean,
  byDefault: "after the first connection",
  meaning: "Whether a call waits for a connection: [connections](connections.md)",
};

/** Options of transports without those for HTTP. */
const local = {
  interceptors: { kind: interceptors, byDefault: "none", meaning: "Applied to every call, the first one outermost" },
  defaultTimeoutMs,
  waitForReady,
  reconnect: {
    kind: groupOf(reconnect, "{ maxDelayMs: 500 }"),
    byDefault: "",
    meaning: "How a lost connection is made again",
  },
  ...common,
};

export const transportRules = {
  address: {
    kind: addresses,
    isRequired: true,
    meaning:
      "Where the server listens: a socket path or `unix:PATH`, `tcp:HOST:PORT`, `http://HOST:PORT`, `https://…`; or a list, of which the first that works is used",
  },
  ...local,
  ...http,
} satisfies RulesOf<IsthmusTransportOptions>;

export const connectRules = {
  timeoutMs: { kind: duration, byDefault: "none", meaning: "Time limit" },
  signal: { kind: signal, byDefault: "none", meaning: "Cancels the wait" },
  waitForReady: { ...waitForReady, byDefault: "the transport's", meaning: "Whether to wait for further attempts" },
} satisfies RulesOf<ConnectOptions>;

export const transportCloseRules = {
  timeoutMs: {
    kind: durationOrNone,
    byDefault: 0,
    meaning: "How long open calls may continue; `Infinity` waits until they have ended",
  },
};

export const blockingRules = {
  address: { kind: address, isRequired: true, meaning: "Where the server listens: a socket path or `unix:PATH`" },
  defaultTimeoutMs,
  ...basic,
} satisfies RulesOf<BlockingClientOptions>;

export const blockingCallRules = {
  timeoutMs: {
    kind: numberOf({ unit: "milliseconds" }),
    byDefault: "the client's",
    meaning: "Time limit for the call, including the time to connect; 0 and less mean none",
  },
  headers: { kind: headers, byDefault: "none", meaning: "Request headers" },
  onHeader: {
    kind: functionOf("(headers) => void"),
    byDefault: "none",
    meaning: "Called with the response's headers before the call returns",
  },
  onTrailer: {
    kind: functionOf("(trailers) => void"),
    byDefault: "none",
    meaning: "Called with the response's trailers before the call returns",
  },
} satisfies RulesOf<BlockingCallOptions>;

/** Options of channels of `isthmus/grpc-js`. grpc-js's clients do the rest themselves. */
export const channelRules = {
  address: {
    kind: address,
    isRequired: true,
    meaning: "Where the server listens: a socket path, `unix:PATH` or `tcp:HOST:PORT`",
  } satisfies Rule,
  ...without(local, "interceptors", "binaryOptions", "codec", "leases"),
};
