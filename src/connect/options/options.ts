/** Options that both ends share, and what holds without them. option-table.ts says which there may be. */
import type { BinaryReadOptions, BinaryWriteOptions } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Address, HttpAddress } from "../../carrier/address.js";
import type { Isolation } from "../../carrier/handshake/link.js";
import { LACK_BY_OPTION, LACK_OVER_TCP, lackOfProcess, warnOfLack } from "../../carrier/handshake/lack.js";
import { WINDOW_MICROS_DEFAULT } from "../../carrier/poll/idle-strategy.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import type { MessageCodec, MessageCodecFactory } from "../../codec/codec.js";
import { createProtobufCodec } from "../../codec/codec.js";
import type { ArenaGeometry, RingGeometry } from "../../memory/shared/layout.js";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import type { Addon } from "../../os/addon.js";
import { loadAddon } from "../../os/addon.js";
import { cpuQuotaCores } from "../../os/cgroup.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import type { KeepAliveOptions } from "../../rpc/keepalive.js";
import { MESSAGE_BYTES_MAX } from "../../wire/frame.js";
import { show } from "./kinds.js";
import { DEFAULTS } from "./table.js";

export interface CallLimits {
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
}

/** Options of both `createIsthmusTransport` and `createIsthmusServer`. */
export interface CommonOptions {
  /**
   * How messages may travel. "auto" (the default) takes shared memory where both ends have it, and else the socket that
   * connects them, and says why (`carrierReason`, and a warning of the process that lacks it); "shm" insists on shared
   * memory and fails loudly where it cannot be had, also if the other end has none; "socket" never uses shared memory.
   * Addresses of HTTP have their own way, and are refused with "shm".
   */
  readonly carrier?: "auto" | "shm" | "socket";
  /** Largest message this side accepts, in bytes; by default protobuf's limit of 2 GiB − 1. */
  readonly readMaxBytes?: number;
  /** Largest message this side sends, in bytes; by default protobuf's limit of 2 GiB − 1. */
  readonly writeMaxBytes?: number;
  /** Options of the protobuf binary format, for example `{ writeUnknownFields: false }`. */
  readonly binaryOptions?: Partial<BinaryReadOptions & BinaryWriteOptions>;
  /** How messages become bytes; protobuf-es's own binary format by default. */
  readonly codec?: MessageCodecFactory;
  /**
   * Whether this side may wait for the peer by looking instead of sleeping: for at most `maxMicros` (200 by default,
   * 1000 at most) microseconds after the last work. It is used only while it pays, and never keeps the event loop from
   * turning for more than 200 µs; `false` never polls.
   */
  readonly polling?: false | { readonly maxMicros: number };
  /**
   * How long received `bytes` (and packed fields) that were not copied stay valid: "collected" by default. Large values
   * are not copied on arrival but leased from the sender's memory; see {@link LeaseLifetime}.
   */
  readonly leases?: LeaseLifetime;
  /**
   * How far the other end is trusted with shared memory: "shared" by default for processes of the same user, else
   * "snapshot", which copies large values before anything looks at them (so there are no leases). See {@link
   * Isolation}.
   */
  readonly isolation?: Isolation;
  /** Sizes of the shared memory that this side creates per connection, in bytes. */
  readonly memory?: {
    /** The ring of small messages: a power of two, at least 64 KiB; 256 KiB by default. */
    readonly ringBytes?: number;
    /**
     * The most that payloads in flight may occupy: a multiple of 64 KiB; 256 MiB by default. Committed only as needed.
     */
    readonly arenaBytes?: number;
  };
  /**
   * What a stream may send to this side before its messages are pulled, in bytes: each message counts with its length
   * and 128 bytes. 1 MiB by default. One larger message passes all the same, so a stream holds at most this and one
   * message in memory, per direction.
   */
  readonly streamWindowBytes?: number;
  /** How long the handshake of a new connection may take, in milliseconds; 5000 by default. */
  readonly handshakeTimeoutMs?: number;
  /**
   * Notices a peer that hangs, whose process is stopped or whose event loop is blocked: its connection is closed, and
   * open calls fail with `Unavailable`. By default on for TCP and off for Unix sockets, where a peer that has died is
   * noticed anyway. Addresses of HTTP have options of their own.
   */
  readonly keepAlive?: false | KeepAliveOptions;
}

const RELEASE_SLOTS = 4096;

export function checkLimits(limits: {
  readMaxBytes: number | undefined;
  writeMaxBytes: number | undefined;
}): CallLimits {
  const { readMaxBytes = MESSAGE_BYTES_MAX, writeMaxBytes = MESSAGE_BYTES_MAX } = limits;
  // Connect's own default is 4 GiB − 1; more than protobuf allows is simply its limit.
  return {
    readMaxBytes: Math.min(readMaxBytes, MESSAGE_BYTES_MAX),
    writeMaxBytes: Math.min(writeMaxBytes, MESSAGE_BYTES_MAX),
  };
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

/** @param isOn without the option */
export function keepAliveOf({ keepAlive }: CommonOptions, isOn: boolean): Required<KeepAliveOptions> | undefined {
  if (keepAlive === false || (keepAlive === undefined && !isOn)) return undefined;
  return { intervalMs: DEFAULTS.keepAliveMs, timeoutMs: DEFAULTS.keepAliveMs, always: false, ...keepAlive };
}

export function handshakeTimeoutOf({ handshakeTimeoutMs = DEFAULTS.handshakeTimeoutMs }: CommonOptions): number {
  // Timers count no further: given more they fire at once.
  return Math.min(handshakeTimeoutMs, TIMER_MS_MAX);
}

/**
 * The timeout of one call. As in Connect's transports 0 and less are none, nor the default.
 * @throws ConnectError `InvalidArgument` for what is no number
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
  // Under a quota of one core or less, polling would use up what the work itself needs.
  const quota = cpuQuotaCores();
  if (quota !== undefined && quota <= 1) return 0;
  return options.polling?.maxMicros ?? WINDOW_MICROS_DEFAULT;
}

export function codecOf({ codec, binaryOptions }: CommonOptions): MessageCodecFactory {
  return codec === undefined ? createProtobufCodec(binaryOptions) : (schema) => confined(codec(schema));
}

/** A codec of the user's: what arrives is decoded in a loop of ours (CONTEXT-2). */
function confined(codec: MessageCodec): MessageCodec {
  return {
    encodeInto: (...input) => codec.encodeInto(...input),
    encode: (message) => codec.encode(message),
    decode: (...input) => inRootContext(() => codec.decode(...input)),
  };
}

/** The addon, which can share memory. @throws ConnectError `FailedPrecondition` that says why that cannot be had */
export function requireSharedMemory(): Addon {
  const { addon } = loadAddon();
  const lack = lackOfProcess();
  if (addon !== undefined && lack === undefined) return addon;
  throw new ConnectError(`shared memory is not available here: ${lack}`, Code.FailedPrecondition);
}

/** The addon. @throws ConnectError `FailedPrecondition` that says why there is none */
export function requireAddon(): Addon {
  const { addon, reason } = loadAddon();
  if (addon !== undefined) return addon;
  throw new ConnectError(`the native addon is not available here: ${reason}`, Code.FailedPrecondition);
}

/** @throws ConnectError `FailedPrecondition` for a carrier that cannot be had */
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

/** Why this end shares no memory over connections of this kind; undefined: it does. */
export function lackOf({ carrier }: CommonOptions, overTcp: boolean): string | undefined {
  if (overTcp) return LACK_OVER_TCP;
  return carrier === "socket" ? LACK_BY_OPTION : lackOfProcess();
}

/** What this end has for connections to an address. */
export interface Means {
  readonly addon: Addon | undefined;
  /** Why it shares no memory, if so. */
  readonly lack: string | undefined;
}

/**
 * Where shared memory is missed, a warning of the process says so, once. @throws ConnectError as `requireSharedMemory`,
 * if that is insisted on
 */
export function meansFor(options: CommonOptions, address: Address): Means {
  const overTcp = address.kind === "tcp";
  if (options.carrier === "shm" && !overTcp) return { addon: requireSharedMemory(), lack: undefined };
  const lack = lackOf(options, overTcp);
  if (lack !== undefined && lack !== LACK_OVER_TCP && lack !== LACK_BY_OPTION) warnOfLack(lack);
  return { addon: loadAddon().addon, lack };
}

/** The options that were given: libraries tell `undefined` from nothing. */
export function omitUndefined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
