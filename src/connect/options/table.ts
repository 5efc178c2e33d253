/**
 * The one table of options: of which kind they are, what holds without them, and what they mean. Each function that
 * takes options checks them against its table first. docs/options.md shows the same (a test compares), and the compiler
 * sees to it that a table and its TypeScript type have the same names.
 */
import type { ConnectRouter } from "@connectrpc/connect";
import type { ListenOptions } from "../../carrier/handshake/listen.js";
import { WINDOW_MICROS_DEFAULT, WINDOW_MICROS_MAX } from "../../carrier/poll/idle-strategy.js";
import { arenaComplaint, ringComplaint } from "../../memory/shared/layout.js";
import { LEASE_LIFETIMES } from "../../memory/payload/lease.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import type { KeepAliveOptions } from "../../rpc/keepalive.js";
import { SLOTS_MAX, STREAM_WINDOW_BYTES_MAX, STREAM_WINDOW_BYTES_MIN } from "../../wire/frame.js";
import type {
  BlockingCallOptions,
  BlockingClientOptions,
  ConnectOptions,
  IsthmusTransportOptions,
  ReconnectOptions,
} from "../types/client.js";
import type { CommonOptions } from "../types/common.js";
import type { CorsOptions, HttpServerOptions, HttpTransportOptions } from "../types/http.js";
import type { LoanOptions, MapFileOptions } from "../types/payloads.js";
import type { IsthmusRouteOptions } from "../types/routes.js";
import type { IsthmusServerOptions } from "../types/server.js";
import type { WorkersOptions } from "../types/workers.js";
import type { OptionTable } from "./check.js";
import { tableOf } from "./check.js";
import type { Kind, Rule } from "./kinds.js";
import {
  address,
  addresses,
  anything,
  boolean,
  environment,
  functionOf,
  groupOf,
  groupOrBoolean,
  groupOrFalse,
  headerNames,
  interceptors,
  isObject,
  listOf,
  mode,
  moduleUrl,
  numberOf,
  objectOf,
  oneOf,
  origins,
  signal,
  sizeOf,
  text,
  without,
} from "./kinds.js";

/** A rule for each of the options of a type, and none besides. */
type RulesOf<T> = Record<keyof T, Rule>;

export const DEFAULTS = {
  ringBytes: 256 << 10,
  arenaBytes: 256 << 20,
  streamWindowBytes: 1 << 20,
  handshakeTimeoutMs: 5000,
  keepAliveMs: 20_000,
  initialDelayMs: 10,
  maxDelayMs: 2000,
  giveUpAfterMs: 30_000,
  pingIntervalMs: 360_000,
  maxConnections: 1024,
  maxHttpConnections: 1024,
  headersTimeoutMs: 60_000,
  requestTimeoutMs: 300_000,
  corsMaxAgeSeconds: 7200,
  closeTimeoutMs: 10_000,
  loanTimeoutMs: 10_000,
  mode: 0o600,
  workersMax: 256,
  loadTimeoutMs: 30_000,
  restartDelayMsMax: 5000,
} as const;

/** Also more than timers can count, which is for ever. */
const duration = numberOf({ unit: "milliseconds", above: 0 });
const durationOrNone = numberOf({ unit: "milliseconds", min: 0 });
const messageBytes = numberOf({ unit: "bytes", min: 1 });
const objectsFrom = "objects from `@connectrpc/connect-node`";
const compression: Kind = objectOf("`Compression`", "a compression of @connectrpc/connect-node");
const compressions: Kind = listOf("`Compression[]`", "compressions of @connectrpc/connect-node", isObject);
const headers: Kind = { type: "what `new Headers` takes", complaint: () => undefined };

const readMaxBytes: Rule = {
  kind: messageBytes,
  byDefault: "2 GiB − 1",
  meaning: "Largest message accepted; more than protobuf's limit of 2 GiB − 1 is that limit",
};
const writeMaxBytes: Rule = {
  kind: messageBytes,
  byDefault: "2 GiB − 1",
  meaning: "Largest message sent; more than protobuf's limit of 2 GiB − 1 is that limit",
};
const leases: Rule = {
  kind: oneOf(...LEASE_LIFETIMES),
  byDefault: '"collected"',
  meaning: "How long large received values live: [payloads](payloads.md)",
};
const binaryOptions: Rule = {
  kind: groupOf(
    {
      readUnknownFields: {
        kind: boolean,
        byDefault: "true",
        meaning: "Whether messages keep fields that their schema does not have",
      },
      writeUnknownFields: { kind: boolean, byDefault: "true", meaning: "Whether such fields are sent" },
      recursionLimit: {
        kind: numberOf({ min: 1, isWhole: true }),
        byDefault: 100,
        meaning: "How deep received messages may be nested",
      },
    },
    "{ writeUnknownFields: false }",
  ),
  byDefault: "as in protobuf-es",
  meaning: "Of the protobuf binary format",
};

/** What a thread that blocks has too. */
const basic = {
  readMaxBytes,
  writeMaxBytes,
  binaryOptions,
  codec: {
    kind: functionOf("(schema) => MessageCodec"),
    byDefault: "protobuf",
    meaning: "How messages become bytes: makes an encoder and decoder for a message descriptor",
  },
  polling: {
    kind: groupOrFalse(
      {
        maxMicros: {
          kind: numberOf({ unit: "microseconds", min: 0, max: WINDOW_MICROS_MAX }),
          isRequired: true,
          meaning: "How long after the last work",
        } satisfies Rule,
      },
      "{ maxMicros: 200 }",
    ),
    byDefault: `{ maxMicros: ${WINDOW_MICROS_DEFAULT} }`,
    meaning: "Whether this side may wait by looking instead of sleeping; `false` never does",
  },
  isolation: {
    kind: oneOf("shared", "snapshot"),
    byDefault: "by user",
    meaning:
      "`shared` uses the peer's large values in place, `snapshot` copies them first; by default `shared` for processes of the same user",
  },
  memory: {
    kind: groupOf(
      {
        ringBytes: {
          kind: sizeOf("power of two from 64 KiB to 256 MiB", (ringBytes) =>
            ringComplaint({ ringBytes, releaseSlots: 1 }),
          ),
          byDefault: DEFAULTS.ringBytes,
          meaning: "The ring of small messages, per connection",
        },
        arenaBytes: {
          kind: sizeOf("multiple of 64 KiB from 128 KiB to below 4 GiB", (arenaBytes) =>
            arenaComplaint({ arenaBytes }),
          ),
          byDefault: DEFAULTS.arenaBytes,
          meaning: "The most that payloads in flight may occupy, per connection; committed as needed",
        },
      } satisfies RulesOf<NonNullable<CommonOptions["memory"]>>,
      "{ arenaBytes: 64 << 20 }",
    ),
    byDefault: "",
    meaning: "Sizes of the shared memory that this side makes",
  },
  handshakeTimeoutMs: {
    kind: duration,
    byDefault: DEFAULTS.handshakeTimeoutMs,
    meaning: "How long a new connection may take, a server's `allow` included",
  },
};

const common = {
  carrier: {
    kind: oneOf("auto", "shm", "socket"),
    byDefault: '"auto"',
    meaning:
      "`auto` takes shared memory where both ends have it, and else the socket; `shm` fails where it cannot be had; `socket` never uses it",
  },
  ...basic,
  leases,
  streamWindowBytes: {
    kind: numberOf({ unit: "bytes", min: STREAM_WINDOW_BYTES_MIN, max: STREAM_WINDOW_BYTES_MAX, isWhole: true }),
    byDefault: DEFAULTS.streamWindowBytes,
    meaning: "What a stream may send to this side before its messages are pulled: [streams](streams.md)",
  },
  keepAlive: {
    kind: groupOrFalse(
      {
        intervalMs: {
          kind: numberOf({ unit: "milliseconds", above: 0, max: TIMER_MS_MAX }),
          byDefault: DEFAULTS.keepAliveMs,
          meaning: "After how long a silence the peer is asked for a sign of life",
        },
        timeoutMs: {
          kind: numberOf({ unit: "milliseconds", above: 0, max: TIMER_MS_MAX }),
          byDefault: DEFAULTS.keepAliveMs,
          meaning: "How long it may take to give one",
        },
        always: {
          kind: boolean,
          byDefault: "false",
          meaning: "Whether connections without open calls are watched too",
        },
      } satisfies RulesOf<KeepAliveOptions>,
      "{ intervalMs: 5000 }",
    ),
    byDefault: "TCP only",
    meaning:
      "Notices peers whose process is stopped or whose event loop is blocked: [connections](connections.md#a-peer-that-hangs)",
  },
} satisfies RulesOf<CommonOptions>;

const defaultTimeoutMs: Rule = {
  kind: duration,
  byDefault: "none",
  meaning: "Deadline of calls that set none; `Infinity`, and more than timers can count (24.8 days), is none",
};

const http = {
  protocol: { kind: oneOf("grpc", "grpc-web", "connect"), byDefault: '"grpc"', meaning: "HTTP: what is spoken" },
  nodeOptions: {
    kind: objectOf("object", "an object of options for http2.connect"),
    byDefault: "none",
    meaning: "HTTP: for `http2.connect`, such as `ca`, `cert` and `key`",
  },
  pingIntervalMs: {
    kind: duration,
    byDefault: DEFAULTS.pingIntervalMs,
    meaning: "HTTP: how often a quiet connection with open calls is asked whether it is alive",
  },
  pingTimeoutMs: { kind: duration, byDefault: 15_000, meaning: "HTTP: how long the answer may take" },
  pingIdleConnection: {
    kind: boolean,
    byDefault: "false",
    meaning: "HTTP: whether a connection without calls is asked too",
  },
  idleConnectionTimeoutMs: {
    kind: duration,
    byDefault: 900_000,
    meaning: "HTTP: after how long without calls the connection is closed",
  },
  acceptCompression: {
    kind: compressions,
    byDefault: "none",
    meaning: `HTTP: compressions that answers may have, ${objectsFrom}`,
  },
  sendCompression: { kind: compression, byDefault: "none", meaning: "HTTP: compresses requests" },
  compressMinBytes: {
    kind: numberOf({ unit: "bytes" }),
    byDefault: 1024,
    meaning: "HTTP: from what size on requests are compressed",
  },
} satisfies RulesOf<HttpTransportOptions>;

const reconnect = {
  initialDelayMs: {
    kind: duration,
    byDefault: DEFAULTS.initialDelayMs,
    meaning: "Pause after the first failed attempt; each further one is 1.6 times as long",
  },
  maxDelayMs: {
    kind: duration,
    byDefault: DEFAULTS.maxDelayMs,
    meaning: "Longest pause, not less than `initialDelayMs`",
  },
  giveUpAfterMs: {
    kind: duration,
    byDefault: DEFAULTS.giveUpAfterMs,
    meaning: "How long a call without a deadline waits for a connection; `Infinity`: for ever",
  },
} satisfies RulesOf<ReconnectOptions>;

const waitForReady: Rule = {
  kind: boolean,
  byDefault: "after the first connection",
  meaning: "Whether a call waits for a connection: [connections](connections.md)",
};

/** What transports have that HTTP has no part in. */
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

export const transportTable = tableOf("createIsthmusTransport", {
  address: {
    kind: addresses,
    isRequired: true,
    meaning:
      "Where the server listens: a socket path or `unix:PATH`, `tcp:HOST:PORT`, `http://HOST:PORT`, `https://…`; or a list, of which the first that works is used",
  },
  ...local,
  ...http,
} satisfies RulesOf<IsthmusTransportOptions>);

export const connectTable = tableOf("transport.connect", {
  timeoutMs: { kind: duration, byDefault: "none", meaning: "How long it may take" },
  signal: { kind: signal, byDefault: "none", meaning: "Gives up" },
  waitForReady: { ...waitForReady, byDefault: "the transport's", meaning: "Whether it waits for further attempts" },
} satisfies RulesOf<ConnectOptions>);

export const transportCloseTable = tableOf("transport.close", {
  timeoutMs: {
    kind: durationOrNone,
    byDefault: 0,
    meaning: "How long open calls may go on; `Infinity`: until they are over",
  },
});

const workers = {
  routes: { kind: moduleUrl, isRequired: true, meaning: "The module that each thread loads: [workers](workers.md)" },
  count: {
    kind: numberOf({ min: 1, max: DEFAULTS.workersMax, isWhole: true }),
    byDefault: "CPUs that may be used",
    meaning: "Threads",
  },
  env: { kind: environment, byDefault: "the process's", meaning: "As for Node's `Worker`" },
  execArgv: {
    kind: listOf("`string[]`", "strings", (one) => typeof one === "string"),
    byDefault: "the process's",
    meaning: "As for Node's `Worker`",
  },
  resourceLimits: {
    kind: objectOf("object", "an object of limits"),
    byDefault: "none",
    meaning: "As for Node's `Worker`",
  },
  workerData: {
    kind: anything,
    byDefault: "none",
    meaning: "What the module finds as `workerData` of `node:worker_threads`",
  },
  loadTimeoutMs: {
    kind: numberOf({ unit: "milliseconds", min: 1 }),
    byDefault: DEFAULTS.loadTimeoutMs,
    meaning: "Longest time to start and load the module",
  },
  restartDelayMsMax: {
    kind: durationOrNone,
    byDefault: DEFAULTS.restartDelayMsMax,
    meaning: "Longest wait before a thread that keeps dying is started again",
  },
} satisfies RulesOf<WorkersOptions>;

const requestGate = { kind: functionOf("(context) => void | Promise<void>") };
const maxTimeoutMs: Rule = { kind: duration, byDefault: "none", meaning: "Longest timeout that a client may ask for" };
const shutdownSignal: Rule = {
  kind: signal,
  byDefault: "none",
  meaning: "When it aborts, the signals of all handler contexts abort",
};

const http1Timeout = numberOf({ unit: "milliseconds", min: 0, max: TIMER_MS_MAX, isWhole: true });
const workersRule: Rule = {
  kind: groupOf(workers, '{ routes: new URL("../server/routes.js", import.meta.url) }'),
  byDefault: "none",
  meaning: "Spreads connections over threads that load the routes from a module",
};

const server = {
  routes: {
    kind: functionOf("(router) => void"),
    isRequired: true,
    meaning: "Registers services, as for any Connect server; with `workers` it is the module's",
  },
  interceptors: {
    kind: interceptors,
    byDefault: "none",
    meaning: "Applied to every call, the first one outermost; a service's or method's own replace them",
  },
  requestGate: {
    ...requestGate,
    byDefault: "none",
    meaning:
      "Decides by its context whether a call comes in, before anything else happens with it; a service's or method's own replaces it",
  },
  maxTimeoutMs,
  shutdownSignal,
  contextValues: {
    kind: functionOf("(peer) => ContextValues"),
    byDefault: "none",
    meaning: "Context values that a client's calls start with",
  },
  allow: {
    kind: functionOf("(peer) => boolean | Promise<boolean>"),
    byDefault: "same user id",
    meaning:
      "Who may connect, by kernel credentials; only `true` lets in. `listen` refuses it where there are no credentials",
  },
  maxConnections: {
    kind: numberOf({ min: 1 }),
    byDefault: DEFAULTS.maxConnections,
    meaning: "Connections at once over shared memory and sockets; further ones are refused",
  },
  maxHttpConnections: {
    kind: numberOf({ min: 1 }),
    byDefault: DEFAULTS.maxHttpConnections,
    meaning: "HTTP: connections at once; further ones are closed",
  },
  http: {
    kind: groupOf(
      {
        headersTimeoutMs: {
          kind: http1Timeout,
          byDefault: DEFAULTS.headersTimeoutMs,
          meaning: "HTTP/1.1: how long a client may take to send a request's headers; 0: any time",
        },
        requestTimeoutMs: {
          kind: http1Timeout,
          byDefault: DEFAULTS.requestTimeoutMs,
          meaning: "HTTP/1.1: how long a client may take to send a whole request; 0: any time",
        },
      } satisfies RulesOf<HttpServerOptions>,
      "{ requestTimeoutMs: 60_000 }",
    ),
    byDefault: "",
    meaning: "HTTP: limits of HTTP/1.1",
  },
  cors: {
    kind: groupOrBoolean(
      {
        origins: {
          kind: origins,
          byDefault: '"*"',
          meaning: "HTTP: pages that may call, such as `https://app.example`",
        },
        credentials: {
          kind: boolean,
          byDefault: "false",
          meaning: "HTTP: whether calls may carry cookies; needs a list of `origins`",
        },
        allowedHeaders: {
          kind: headerNames,
          byDefault: "Connect's own",
          meaning: "HTTP: further request headers that scripts may send",
        },
        exposedHeaders: {
          kind: headerNames,
          byDefault: "Connect's own",
          meaning: "HTTP: further response headers that scripts may see",
        },
        maxAgeSeconds: {
          kind: numberOf({ unit: "seconds", min: 0, isWhole: true }),
          byDefault: DEFAULTS.corsMaxAgeSeconds,
          meaning: "HTTP: how long browsers may remember what they were allowed",
        },
      } satisfies RulesOf<CorsOptions>,
      '{ origins: ["https://app.example"] }',
    ),
    byDefault: "off",
    meaning: "HTTP: lets web pages of other origins call: [browsers](http.md#browsers)",
  },
  maxStreams: {
    kind: numberOf({ min: 1 }),
    byDefault: SLOTS_MAX,
    meaning: "Calls that one connection may have open at once; a client keeps further ones back",
  },
  workers: workersRule,
  ...common,
} satisfies RulesOf<IsthmusServerOptions>;

export const serverTable = tableOf("createIsthmusServer", server);

/** What cannot be sent to a thread: the module's. */
export const MODULE_OPTIONS = [
  "routes",
  "interceptors",
  "requestGate",
  "contextValues",
  "codec",
  "shutdownSignal",
] as const;

/** With `workers`. What is the module's is refused for that reason, whatever it is. */
export const workerServerTable: OptionTable = {
  of: serverTable.of,
  rules: {
    ...server,
    ...Object.fromEntries(MODULE_OPTIONS.map((name) => [name, { kind: anything, meaning: "The module's" }])),
    workers: { ...workersRule, isRequired: true },
  },
};

export const listenTable = tableOf("server.listen", {
  mode: { kind: mode, byDefault: "`0o600`", meaning: "Permission bits of the socket" },
  gid: {
    kind: numberOf({ min: 0, max: 2 ** 32 - 2, isWhole: true }),
    byDefault: "the process's own",
    meaning: "Group of the socket",
  },
  takeover: { kind: boolean, byDefault: "false", meaning: "Takes the path over from a server that is alive" },
  tls: {
    kind: objectOf("object", "an object of options for http2.createSecureServer, such as { key, cert }"),
    byDefault: "none",
    meaning: "For `https://`, which needs it: `key`, `cert`, … as for `http2.createSecureServer`",
  },
} satisfies RulesOf<ListenOptions>);

export const serverCloseTable = tableOf("server.close", {
  timeoutMs: {
    kind: durationOrNone,
    byDefault: DEFAULTS.closeTimeoutMs,
    meaning: "How long open calls may go on; `Infinity`: until they are over",
  },
});

/** Connect's in any of its versions, and those of its adapters, which make no difference here. */
type HttpRouteOption = keyof ConnectRouteOptions | "requestGate" | "grpc" | "grpcWeb" | "connect" | "requestPathPrefix";
type ConnectRouteOptions = NonNullable<Parameters<ConnectRouter["rpc"]>[2]>;

export const routeTable = tableOf("router.service", {
  interceptors: { kind: interceptors, byDefault: "the server's", meaning: "Replace the server's" },
  maxTimeoutMs: { ...maxTimeoutMs, byDefault: "the server's" },
  readMaxBytes: { ...readMaxBytes, byDefault: "the server's" },
  writeMaxBytes: { ...writeMaxBytes, byDefault: "the server's" },
  binaryOptions: { ...binaryOptions, byDefault: "the server's" },
  shutdownSignal: { ...shutdownSignal, byDefault: "the server's" },
  leases: { ...leases, byDefault: "the server's" },
  requestGate: { ...requestGate, byDefault: "the server's", meaning: "Replaces the server's" },
  jsonOptions: {
    kind: objectOf("object", "an object of options of the JSON format"),
    byDefault: "",
    meaning: "HTTP: of the JSON format",
  },
  acceptCompression: {
    kind: compressions,
    byDefault: "",
    meaning: `HTTP: compressions of requests and answers, ${objectsFrom}`,
  },
  compressMinBytes: {
    kind: numberOf({ unit: "bytes" }),
    byDefault: 1024,
    meaning: "HTTP: from what size on answers are compressed",
  },
  requireConnectProtocolHeader: {
    kind: boolean,
    byDefault: "false",
    meaning: "HTTP: refuses requests of Connect's protocol that do not name its version",
  },
  grpc: { kind: boolean, byDefault: "true", meaning: "HTTP: whether gRPC is spoken" },
  grpcWeb: { kind: boolean, byDefault: "true", meaning: "HTTP: whether gRPC-Web is spoken" },
  connect: { kind: boolean, byDefault: "true", meaning: "HTTP: whether Connect's protocol is spoken" },
  requestPathPrefix: { kind: text, byDefault: "none", meaning: "HTTP: what stands before every path" },
} satisfies Record<keyof IsthmusRouteOptions | HttpRouteOption, Rule>);

export const blockingTable = tableOf("createBlockingClient", {
  address: { kind: address, isRequired: true, meaning: "Where the server listens: a socket path or `unix:PATH`" },
  defaultTimeoutMs,
  ...basic,
} satisfies RulesOf<BlockingClientOptions>);

/** `isthmus/grpc-js` makes its table of these: grpc-js's clients do the rest themselves. */
export const channelRules = {
  address: {
    kind: address,
    isRequired: true,
    meaning: "Where the server listens: a socket path, `unix:PATH` or `tcp:HOST:PORT`",
  } satisfies Rule,
  ...without(local, "interceptors", "binaryOptions", "codec", "leases"),
};

export const blockingCallTable = tableOf("a blocking client's calls", {
  timeoutMs: {
    kind: numberOf({ unit: "milliseconds" }),
    byDefault: "the client's",
    meaning: "How long the call may take, the connection included; 0 and less: as long as it likes",
  },
  headers: { kind: headers, byDefault: "none", meaning: "Request headers" },
  onHeader: {
    kind: functionOf("(headers) => void"),
    byDefault: "none",
    meaning: "Gets the response's headers before the call returns",
  },
  onTrailer: {
    kind: functionOf("(trailers) => void"),
    byDefault: "none",
    meaning: "Gets the response's trailers before the call returns",
  },
} satisfies RulesOf<BlockingCallOptions>);

export const loanTable = tableOf("loan", {
  signal: { kind: signal, byDefault: "none", meaning: "Gives up waiting" },
  timeoutMs: {
    kind: durationOrNone,
    byDefault: DEFAULTS.loanTimeoutMs,
    meaning: "How long to wait while the arena is full; `Infinity`: for ever",
  },
} satisfies RulesOf<LoanOptions>);

export const mapFileTable = tableOf("mapFile", {
  offset: {
    kind: numberOf({ unit: "bytes", min: 0, isWhole: true }),
    byDefault: 0,
    meaning: "Where in the file to start",
  },
  length: {
    kind: numberOf({ unit: "bytes", min: 0, isWhole: true }),
    byDefault: "to the end",
    meaning: "How many bytes",
  },
} satisfies RulesOf<MapFileOptions>);
