/** Rules for the options of servers. */
import type { ConnectRouter } from "@connectrpc/connect";
import type { ListenOptions } from "../../carrier/handshake/listen.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import { SLOTS_MAX } from "../../wire/frame.js";
import type { CorsOptions, HttpServerOptions } from "../types/http.js";
import type { ServerLimits } from "../types/limits.js";
import type { IsthmusRouteOptions } from "../types/routes.js";
import type { IsthmusServerOptions } from "../types/server.js";
import type { WorkersOptions } from "../types/workers.js";
import type { RulesOf } from "./common-rules.js";
import {
  binaryOptions,
  common,
  compressions,
  duration,
  durationOrNone,
  leases,
  objectsFrom,
  readMaxBytes,
  writeMaxBytes,
} from "./common-rules.js";
import { DEFAULTS } from "./defaults.js";
import type { Rule } from "./kinds.js";
import {
  anything,
  boolean,
  environment,
  functionOf,
  groupOf,
  groupOrBoolean,
  headerNames,
  interceptors,
  listOf,
  mode,
  moduleUrl,
  numberOf,
  objectOf,
  origins,
  signal,
  text,
} from "./kinds.js";

const workers = {
  routes: { kind: moduleUrl, isRequired: true, meaning: "The module that each thread loads: [workers](workers.md)" },
  count: {
    kind: numberOf({ min: 1, max: DEFAULTS.workersMax, isWhole: true }),
    byDefault: "CPUs of the process",
    meaning: "Number of threads",
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
    meaning: "The value that the module sees as `workerData` of `node:worker_threads`",
  },
  loadTimeoutMs: {
    kind: numberOf({ unit: "milliseconds", min: 1 }),
    byDefault: DEFAULTS.loadTimeoutMs,
    meaning: "Time limit to start and load the module",
  },
  restartDelayMsMax: {
    kind: durationOrNone,
    byDefault: DEFAULTS.restartDelayMsMax,
    meaning: "Longest pause before a thread that keeps dying is started again",
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
export const workersRule: Rule = {
  kind: groupOf(workers, '{ routes: new URL("../server/routes.js", import.meta.url) }'),
  byDefault: "none",
  meaning: "Spreads connections over threads that load the routes from a module",
};

const count = numberOf({ min: 1, isWhole: true });
const limits = {
  keptBytes: {
    kind: numberOf({ unit: "bytes", min: 1 << 16 }),
    byDefault: DEFAULTS.keptBytes,
    meaning: "Private memory that a connection may make the server keep",
  },
  valuesPerMessage: {
    kind: numberOf({ min: 1 }),
    byDefault: DEFAULTS.valuesPerMessage,
    meaning: "Nested messages, and elements of lists and maps, of one received message",
  },
  resetsPerSecond: {
    kind: numberOf({ min: 1 }),
    byDefault: DEFAULTS.resetsPerSecond,
    meaning: "Open calls that a client may give up per second; a client that exceeds it is disconnected",
  },
  handshakes: {
    kind: count,
    byDefault: DEFAULTS.handshakes,
    meaning: "Clients in the handshake at once; the oldest one makes room for a new one",
  },
  connectionsPerUser: {
    kind: count,
    byDefault: "half of `maxConnections`; none for the server's own user",
    meaning: "Connections of one user",
  },
  connectionsPerProcess: {
    kind: count,
    byDefault: "128; none for the server's own user",
    meaning: "Connections of one process",
  },
} satisfies RulesOf<ServerLimits>;

export const serverRules = {
  routes: {
    kind: functionOf("(router) => void"),
    isRequired: true,
    meaning: "Registers services, as for any Connect server; with `workers` the module exports it",
  },
  interceptors: {
    kind: interceptors,
    byDefault: "none",
    meaning: "Applied to every call, the first one outermost; the option of a service or method replaces them",
  },
  requestGate: {
    ...requestGate,
    byDefault: "none",
    meaning:
      "Decides by a call's context whether it is admitted, before anything else happens with it; the option of a service or method replaces it",
  },
  health: {
    kind: boolean,
    byDefault: "off",
    meaning:
      "Serves `grpc.health.v1.Health`; `requestGate` and interceptors do not apply to it: [health](operations.md#health)",
  },
  reflection: {
    kind: boolean,
    byDefault: "off",
    meaning:
      "Serves gRPC's server reflection (v1 and v1alpha), for tools such as grpcurl: [reflection](operations.md#reflection)",
  },
  maxTimeoutMs,
  shutdownSignal,
  contextValues: {
    kind: functionOf("(peer) => ContextValues"),
    byDefault: "none",
    meaning: "Makes the initial context values of a client's calls",
  },
  allow: {
    kind: functionOf("(peer) => boolean | Promise<boolean>"),
    byDefault: "same user id",
    meaning:
      "Decides by kernel credentials which clients may connect; only `true` admits one. `listen` fails with this option if there are no credentials",
  },
  maxConnections: {
    kind: numberOf({ min: 1 }),
    byDefault: DEFAULTS.maxConnections,
    meaning: "Most connections at once over shared memory and sockets; further ones are refused",
  },
  maxHttpConnections: {
    kind: numberOf({ min: 1 }),
    byDefault: DEFAULTS.maxHttpConnections,
    meaning: "HTTP: most connections at once; further ones are closed",
  },
  http: {
    kind: groupOf(
      {
        headersTimeoutMs: {
          kind: http1Timeout,
          byDefault: DEFAULTS.headersTimeoutMs,
          meaning: "HTTP/1.1: time limit for receiving a request's headers; 0 means none",
        },
        requestTimeoutMs: {
          kind: http1Timeout,
          byDefault: DEFAULTS.requestTimeoutMs,
          meaning: "HTTP/1.1: time limit for receiving a whole request; 0 means none",
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
          meaning: "HTTP: origins whose pages may call, such as `https://app.example`",
        },
        credentials: {
          kind: boolean,
          byDefault: "false",
          meaning: "HTTP: whether calls may carry cookies; requires a list of `origins`",
        },
        allowedHeaders: {
          kind: headerNames,
          byDefault: "Connect's own",
          meaning: "HTTP: additional request headers that scripts may send",
        },
        exposedHeaders: {
          kind: headerNames,
          byDefault: "Connect's own",
          meaning: "HTTP: additional response headers that scripts may read",
        },
        maxAgeSeconds: {
          kind: numberOf({ unit: "seconds", min: 0, isWhole: true }),
          byDefault: DEFAULTS.corsMaxAgeSeconds,
          meaning: "HTTP: how long browsers may cache the answer to a preflight request",
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
    meaning: "Most open calls of one connection, and most handlers that run for it; clients hold further calls back",
  },
  limits: {
    kind: groupOf(limits, "{ keptBytes: 64 << 20 }"),
    byDefault: "",
    meaning: "What one client may use of the server: [limits](limits.md#per-client)",
  },
  workers: workersRule,
  ...common,
} satisfies RulesOf<IsthmusServerOptions>;

export const listenRules = {
  mode: { kind: mode, byDefault: "`0o600`", meaning: "Permission bits of the socket" },
  gid: {
    kind: numberOf({ min: 0, max: 2 ** 32 - 2, isWhole: true }),
    byDefault: "the process's own",
    meaning: "Group of the socket",
  },
  takeover: { kind: boolean, byDefault: "false", meaning: "Whether to take the path over from a live server" },
  tls: {
    kind: objectOf("object", "an object of options for http2.createSecureServer, such as { key, cert }"),
    byDefault: "none",
    meaning: "Required for `https://`: `key`, `cert` and other options of `http2.createSecureServer`",
  },
} satisfies RulesOf<ListenOptions>;

export const serverCloseRules = {
  timeoutMs: {
    kind: durationOrNone,
    byDefault: DEFAULTS.closeTimeoutMs,
    meaning: "How long open calls may continue; `Infinity` waits until they have ended",
  },
};

/** Options of all versions of Connect and of its adapters, which have no effect here. */
type HttpRouteOption = keyof ConnectRouteOptions | "requestGate" | "grpc" | "grpcWeb" | "connect" | "requestPathPrefix";
type ConnectRouteOptions = NonNullable<Parameters<ConnectRouter["rpc"]>[2]>;

export const routeRules = {
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
    meaning: "HTTP: options of the JSON format",
  },
  acceptCompression: {
    kind: compressions,
    byDefault: "",
    meaning: `HTTP: compressions of requests and responses, ${objectsFrom}`,
  },
  compressMinBytes: {
    kind: numberOf({ unit: "bytes" }),
    byDefault: 1024,
    meaning: "HTTP: smallest response that is compressed",
  },
  requireConnectProtocolHeader: {
    kind: boolean,
    byDefault: "false",
    meaning: "HTTP: refuses requests of Connect's protocol that do not name its version",
  },
  grpc: { kind: boolean, byDefault: "true", meaning: "HTTP: whether to serve gRPC" },
  grpcWeb: { kind: boolean, byDefault: "true", meaning: "HTTP: whether to serve gRPC-Web" },
  connect: { kind: boolean, byDefault: "true", meaning: "HTTP: whether to serve Connect's protocol" },
  requestPathPrefix: { kind: text, byDefault: "none", meaning: "HTTP: prefix of every path" },
} satisfies Record<keyof IsthmusRouteOptions | HttpRouteOption, Rule>;
