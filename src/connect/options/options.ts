/** Settings derived from the options that both ends share. `table.ts` lists the options. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Address, HttpAddress } from "../../carrier/address.js";
import { LACK_BY_OPTION, LACK_OVER_TCP, lackOfProcess, warnOfLack } from "../../carrier/handshake/lack.js";
import { WINDOW_MICROS_DEFAULT } from "../../carrier/poll/idle-strategy.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import type { MessageCodec, MessageCodecFactory } from "../../codec/codec.js";
import { createProtobufCodec } from "../../codec/codec.js";
import type { ArenaGeometry, RingGeometry } from "../../memory/shm/layout.js";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import type { Addon } from "../../os/addon.js";
import { loadAddon } from "../../os/addon.js";
import { cpuQuotaCores } from "../../os/cgroup.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import type { KeepAliveOptions } from "../../rpc/keepalive.js";
import { MESSAGE_BYTES_MAX } from "../../wire/frame.js";
import type { CommonOptions } from "../types/common.js";
import type { ServerLimits } from "../types/limits.js";
import type { IsthmusServerOptions } from "../types/server.js";
import { show } from "./kinds.js";
import { DEFAULTS } from "./defaults.js";

export interface CallLimits {
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
}

const RELEASE_SLOTS = 4096;

export function checkLimits(limits: {
  readMaxBytes: number | undefined;
  writeMaxBytes: number | undefined;
}): CallLimits {
  const { readMaxBytes = MESSAGE_BYTES_MAX, writeMaxBytes = MESSAGE_BYTES_MAX } = limits;
  // Connect's default of 4 GiB − 1 exceeds protobuf's limit, which then applies.
  return {
    readMaxBytes: Math.min(readMaxBytes, MESSAGE_BYTES_MAX),
    writeMaxBytes: Math.min(writeMaxBytes, MESSAGE_BYTES_MAX),
  };
}

/** The limits per client, with their defaults. Those that are undefined depend on the client. */
export function limitsOf({ limits }: Pick<IsthmusServerOptions, "limits">) {
  return {
    keptBytes: DEFAULTS.keptBytes,
    valuesPerMessage: DEFAULTS.valuesPerMessage,
    resetsPerSecond: DEFAULTS.resetsPerSecond,
    handshakes: DEFAULTS.handshakes,
    ...limits,
  } satisfies ServerLimits;
}

export function geometryOf({ memory }: CommonOptions): RingGeometry & ArenaGeometry {
  return {
    ringBytes: memory?.ringBytes ?? DEFAULTS.ringBytes,
    arenaBytes: memory?.arenaBytes ?? DEFAULTS.arenaBytes,
    releaseSlots: RELEASE_SLOTS,
  };
}

export function lifetimeOf({ leases = "collected" }: Pick<CommonOptions, "leases">): LeaseLifetime {
  return leases;
}

export function streamWindowOf({ streamWindowBytes = DEFAULTS.streamWindowBytes }: CommonOptions): number {
  return streamWindowBytes;
}

/** @param isOn the default */
export function keepAliveOf({ keepAlive }: CommonOptions, isOn: boolean): Required<KeepAliveOptions> | undefined {
  if (keepAlive === false || (keepAlive === undefined && !isOn)) return undefined;
  return { intervalMs: DEFAULTS.keepAliveMs, timeoutMs: DEFAULTS.keepAliveMs, always: false, ...keepAlive };
}

export function handshakeTimeoutOf({ handshakeTimeoutMs = DEFAULTS.handshakeTimeoutMs }: CommonOptions): number {
  // Timers count no further. Given more, they fire at once.
  return Math.min(handshakeTimeoutMs, TIMER_MS_MAX);
}

/**
 * The timeout of one call. As in Connect's transports, 0 and less mean no timeout, not even the default.
 * @throws ConnectError `InvalidArgument` if it is not a number
 */
export function callTimeout(timeoutMs: number | undefined, byDefault: number | undefined): number | undefined {
  if (timeoutMs === undefined) return byDefault;
  if (timeoutMs <= 0) return undefined;
  if (typeof timeoutMs === "number" && timeoutMs > 0) return timeoutMs;
  throw new ConnectError(
    `timeoutMs of a call: expected a number of milliseconds, not ${show(timeoutMs)}`,
    Code.InvalidArgument,
  );
}

export function pollMicrosOf(options: CommonOptions): number {
  if (options.polling === false) return 0;
  // Under a quota of one core or less, polling would use up the time that the work itself needs.
  const quota = cpuQuotaCores();
  if (quota !== undefined && quota <= 1) return 0;
  return options.polling?.maxMicros ?? WINDOW_MICROS_DEFAULT;
}

/** @param valuesMax undefined: no limit */
export function codecOf({ codec, binaryOptions }: CommonOptions, valuesMax?: number): MessageCodecFactory {
  return codec === undefined ? protobufCodecOf(binaryOptions, valuesMax) : (schema) => confined(codec(schema));
}

/** @param valuesMax undefined: no limit */
export function protobufCodecOf(
  binaryOptions: CommonOptions["binaryOptions"],
  valuesMax: number | undefined,
): MessageCodecFactory {
  return createProtobufCodec({ ...binaryOptions, ...(valuesMax === undefined ? {} : { valuesMax }) });
}

/**
 * Wraps a user's codec. Received messages are decoded inside Isthmus's own loop, which user code must not affect
 * (CONTEXT-2).
 */
function confined(codec: MessageCodec): MessageCodec {
  return {
    encodeInto: (...input) => codec.encodeInto(...input),
    encode: (message) => codec.encode(message),
    decode: (...input) => inRootContext(() => codec.decode(...input)),
  };
}

/** The addon, if shared memory is available. @throws ConnectError `FailedPrecondition` that says why it is not */
export function requireSharedMemory(): Addon {
  const { addon } = loadAddon();
  const lack = lackOfProcess();
  if (addon !== undefined && lack === undefined) return addon;
  throw new ConnectError(`shared memory is not available here: ${lack}`, Code.FailedPrecondition);
}

/** The addon, for worker threads. @throws ConnectError `FailedPrecondition` that says why there is none */
export function requireAddonForWorkers(): Addon {
  const { addon, reason } = loadAddon();
  if (addon !== undefined) return addon;
  throw new ConnectError(
    `option \`workers\` needs the native addon, which is not available here: ${reason}; leave it out and give the routes to the server, to serve them on this thread`,
    Code.FailedPrecondition,
  );
}

/** @throws ConnectError `FailedPrecondition` if the options require shared memory and it is not available */
export function checkCarrier({ carrier }: CommonOptions, address?: Address | HttpAddress): void {
  if (carrier !== "shm") return;
  if (address?.kind === "tcp")
    throw new ConnectError('option carrier: "shm" cannot be had over TCP; use a Unix socket', Code.FailedPrecondition);
  if (address?.kind === "http")
    throw new ConnectError(
      'option carrier: "shm" cannot be had over HTTP; leave it away, or use a Unix socket',
      Code.FailedPrecondition,
    );
  requireSharedMemory();
}

/** Why this end shares no memory over connections of this kind; undefined if it does. */
export function lackOf({ carrier }: CommonOptions, overTcp: boolean): string | undefined {
  if (overTcp) return LACK_OVER_TCP;
  return carrier === "socket" ? LACK_BY_OPTION : lackOfProcess();
}

/** What this end can use for connections to an address. */
export interface Means {
  readonly addon: Addon | undefined;
  /** Why it shares no memory; undefined if it does. */
  readonly lack: string | undefined;
}

/**
 * The means for connections to an address. If shared memory is not available, a process warning says so once.
 * @throws ConnectError as `requireSharedMemory` if the options require shared memory
 */
export function meansFor(options: CommonOptions, address: Address): Means {
  const overTcp = address.kind === "tcp";
  if (options.carrier === "shm" && !overTcp) return { addon: requireSharedMemory(), lack: undefined };
  const lack = lackOf(options, overTcp);
  if (lack !== undefined && lack !== LACK_OVER_TCP && lack !== LACK_BY_OPTION) warnOfLack(lack);
  return { addon: loadAddon().addon, lack };
}

/** The options without undefined ones, for libraries that distinguish `undefined` from an absent property. */
export function omitUndefined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
