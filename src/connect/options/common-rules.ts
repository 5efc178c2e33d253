/** Rules for the options that clients and servers share. */
import { WINDOW_MICROS_DEFAULT, WINDOW_MICROS_MAX } from "../../carrier/poll/idle-strategy.js";
import { LEASE_LIFETIMES } from "../../memory/payload/lease.js";
import { arenaComplaint, ringComplaint } from "../../memory/shm/layout.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import type { KeepAliveOptions } from "../../rpc/keepalive.js";
import { STREAM_WINDOW_BYTES_MAX, STREAM_WINDOW_BYTES_MIN } from "../../wire/frame.js";
import type { CommonOptions } from "../types/common.js";
import { DEFAULTS } from "./defaults.js";
import type { Kind, Rule } from "./kinds.js";
import {
  boolean,
  functionOf,
  groupOf,
  groupOrFalse,
  isObject,
  listOf,
  numberOf,
  objectOf,
  oneOf,
  sizeOf,
} from "./kinds.js";

/** Exactly one rule for each option of a type. */
export type RulesOf<T> = Record<keyof T, Rule>;

/** Accepts more than timers can count, which means forever. */
export const duration = numberOf({ unit: "milliseconds", above: 0 });
export const durationOrNone = numberOf({ unit: "milliseconds", min: 0 });
const messageBytes = numberOf({ unit: "bytes", min: 1 });
export const objectsFrom = "objects from `@connectrpc/connect-node`";
export const compression: Kind = objectOf("`Compression`", "a compression of @connectrpc/connect-node");
export const compressions: Kind = listOf("`Compression[]`", "compressions of @connectrpc/connect-node", isObject);

export const readMaxBytes: Rule = {
  kind: messageBytes,
  byDefault: "2 GiB − 1",
  meaning: "Largest message accepted; at most protobuf's limit of 2 GiB − 1",
};
export const writeMaxBytes: Rule = {
  kind: messageBytes,
  byDefault: "2 GiB − 1",
  meaning: "Largest message sent; at most protobuf's limit of 2 GiB − 1",
};
export const leases: Rule = {
  kind: oneOf(...LEASE_LIFETIMES),
  byDefault: '"collected"',
  meaning: "How long large received values stay valid: [payloads](payloads.md)",
};
export const binaryOptions: Rule = {
  kind: groupOf(
    {
      readUnknownFields: {
        kind: boolean,
        byDefault: "true",
        meaning: "Whether received messages keep fields that are not in their schema",
      },
      writeUnknownFields: { kind: boolean, byDefault: "true", meaning: "Whether such fields are sent" },
      recursionLimit: {
        kind: numberOf({ min: 1, isWhole: true }),
        byDefault: 100,
        meaning: "Maximum depth of nested messages that are received",
      },
    },
    "{ writeUnknownFields: false }",
  ),
  byDefault: "as in protobuf-es",
  meaning: "Options of the protobuf binary format",
};

/** Options that blocking clients have too. */
export const basic = {
  readMaxBytes,
  writeMaxBytes,
  binaryOptions,
  codec: {
    kind: functionOf("(schema) => MessageCodec"),
    byDefault: "protobuf",
    meaning: "How messages become bytes: a function from a message descriptor to its encoder and decoder",
  },
  polling: {
    kind: groupOrFalse(
      {
        maxMicros: {
          kind: numberOf({ unit: "microseconds", min: 0, max: WINDOW_MICROS_MAX }),
          isRequired: true,
          meaning: "How long to poll after the last work",
        } satisfies Rule,
      },
      "{ maxMicros: 200 }",
    ),
    byDefault: `{ maxMicros: ${WINDOW_MICROS_DEFAULT} }`,
    meaning: "Whether this side may poll instead of sleeping; `false` never polls",
  },
  isolation: {
    kind: oneOf("shared", "snapshot"),
    byDefault: "by peer",
    meaning:
      "`shared` uses the peer's large values in place, `snapshot` copies them first; by default `shared` for processes of the same user in the same namespaces",
  },
  memory: {
    kind: groupOf(
      {
        ringBytes: {
          kind: sizeOf("power of two from 64 KiB to 256 MiB", (ringBytes) =>
            ringComplaint({ ringBytes, releaseSlots: 1 }),
          ),
          byDefault: DEFAULTS.ringBytes,
          meaning: "The ring for small messages, per connection",
        },
        arenaBytes: {
          kind: sizeOf("multiple of 64 KiB from 128 KiB to below 4 GiB", (arenaBytes) =>
            arenaComplaint({ arenaBytes }),
          ),
          byDefault: DEFAULTS.arenaBytes,
          meaning: "Upper limit for payloads in flight, per connection; committed as needed",
        },
      } satisfies RulesOf<NonNullable<CommonOptions["memory"]>>,
      "{ arenaBytes: 64 << 20 }",
    ),
    byDefault: "",
    meaning: "Sizes of the shared memory that this side creates",
  },
  handshakeTimeoutMs: {
    kind: duration,
    byDefault: DEFAULTS.handshakeTimeoutMs,
    meaning: "Time limit for the handshake of a new connection, including a server's `allow`",
  },
};

export const common = {
  carrier: {
    kind: oneOf("auto", "shm", "socket"),
    byDefault: '"auto"',
    meaning:
      "`auto` uses shared memory if both ends have it, otherwise the socket; `shm` fails without shared memory; `socket` never uses it",
  },
  ...basic,
  leases,
  streamWindowBytes: {
    kind: numberOf({ unit: "bytes", min: STREAM_WINDOW_BYTES_MIN, max: STREAM_WINDOW_BYTES_MAX, isWhole: true }),
    byDefault: DEFAULTS.streamWindowBytes,
    meaning: "How much a stream may send to this side before its messages are pulled: [streams](streams.md)",
  },
  keepAlive: {
    kind: groupOrFalse(
      {
        intervalMs: {
          kind: numberOf({ unit: "milliseconds", above: 0, max: TIMER_MS_MAX }),
          byDefault: DEFAULTS.keepAliveMs,
          meaning: "Silence after which the peer is sent a ping",
        },
        timeoutMs: {
          kind: numberOf({ unit: "milliseconds", above: 0, max: TIMER_MS_MAX }),
          byDefault: DEFAULTS.keepAliveMs,
          meaning: "Time limit for the answer",
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
      "Detects peers whose process is stopped or whose event loop is blocked: [connections](connections.md#a-peer-that-hangs)",
  },
} satisfies RulesOf<CommonOptions>;

export const defaultTimeoutMs: Rule = {
  kind: duration,
  byDefault: "none",
  meaning: "Timeout of calls that set none; `Infinity`, and more than timers can count (24.8 days), means none",
};
