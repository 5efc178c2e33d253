/**
 * The typed door to the native addon, and the only module that loads it. The addon makes system calls and nothing else;
 * what the bytes of a segment mean is decided above this folder.
 *
 * Invariants: descriptors are plain numbers and belong to the caller until `closeDescriptor`; all sizes and offsets are
 * bytes; a failed system call throws a `SystemError`; an argument that makes no sense throws a TypeError or RangeError.
 */

import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * Seals of a segment, to be or-ed: once added, none is ever removed.
 *
 * `SEAL`: no further seals · `SHRINK`, `GROW`: the length stays · `WRITE`: nobody writes, and it cannot be added while a
 * writable mapping exists · `FUTURE_WRITE`: writable mappings that exist keep writing, new ones and `write` are refused.
 */
export const SEALS = {
  SEAL: 0x01,
  SHRINK: 0x02,
  GROW: 0x04,
  WRITE: 0x08,
  FUTURE_WRITE: 0x10,
} as const;

/** Most descriptors that one message can carry. */
export const MESSAGE_DESCRIPTORS_MAX = 16;

declare const watchHandle: unique symbol;

/** A watched descriptor; opaque. Dropping it does not end the watch, `closeWatch` does. */
export interface WatchHandle {
  readonly [watchHandle]: never;
}

export interface SegmentInfo {
  /** Or-ed `SEALS`; kernels may add others, so compare with a mask. */
  seals: number;
  /** Final only if `seals` has `SHRINK` and `GROW`. */
  byteLength: number;
}

export interface ReceivedMessage {
  /** Bytes read; 0: the peer closed; -1: nothing is there. */
  byteLength: number;
  /** Close-on-exec, the caller's to close. */
  descriptors: number[];
}

export interface PeerCredentials {
  /** As it was when the peer connected or listened; 0 if the peer's process is not visible from this pid namespace. */
  pid: number;
  /** 65534 (the overflow uid) if the peer's user has no number in this user namespace. */
  uid: number;
  gid: number;
}

export interface Addon {
  /**
   * A new segment of `byteLength` zero bytes: a memfd of mode 0600, close-on-exec, not executable where the kernel knows
   * that. No memory is taken until pages are touched or committed. `name` (at most 249 bytes) only shows in /proc.
   */
  createSegment(name: string, byteLength: number): number;

  /** Adds seals. EPERM if it is sealed with `SEAL`; EBUSY for `WRITE` while a writable mapping exists. */
  sealSegment(fd: number, seals: number): void;

  /**
   * Seals and length, in this order. EINVAL if it is no memfd, or lies on hugetlbfs (a touch there may be SIGBUS).
   * A peer's segment must be inspected, and have `SHRINK`, before it is mapped.
   */
  inspectSegment(fd: number): SegmentInfo;

  /**
   * Maps bytes [0, byteLength) of the segment and, right behind them, its last `mirrorByteLength` bytes (up to
   * `byteLength`) once more; 0 means no mirror. Both are multiples of `pageSize()`, together below 4 GiB.
   *
   * The mapping ends when the last backing store over it goes: when the ArrayBuffer (or what `transfer()` made of it) is
   * collected or detached, in a later turn of the event loop, and at the latest with the environment. Closing `fd` does
   * not end it. At that point of a worker's life its memory is gone also for other threads: never share it with them.
   *
   * TRAPS: a store through a mapping with `writable: false` is SIGSEGV; a touch beyond the file's end is SIGBUS.
   *
   * EPERM: writable, but sealed `WRITE` or `FUTURE_WRITE`. ENOMEM: the message names vm.max_map_count (a mapping counts
   * once, with a mirror twice; the process lives on). `ERR_NO_EXTERNAL_BUFFERS`: the runtime allows no foreign memory.
   */
  mapSegment(fd: number, byteLength: number, mirrorByteLength: number, writable: boolean): ArrayBuffer;

  /**
   * Detaches the buffer: all views on it become empty, and its memory is unmapped in a later turn of the event loop.
   * Does nothing if it is detached already. Works on any ArrayBuffer.
   * SUBTLE: a loop that maps and detaches without a turn of the event loop piles up mappings, up to vm.max_map_count.
   */
  detachMapping(buffer: ArrayBuffer): void;

  /**
   * Takes memory for a range now, so that a touch cannot fail later. Contents stay. Slow for much at once: 100 to 150
   * microseconds per MiB. ENOSPC or ENOMEM: shared memory is exhausted; EPERM: beyond the end of a segment sealed `GROW`.
   * SUBTLE: beyond the cgroup's limit the kernel may kill the process and not fail the call; look at the limit first.
   */
  commitPages(fd: number, offset: number, byteLength: number): void;

  /**
   * Gives the memory of a range back; it reads as zeros afterwards. Partial pages at the ends are zeroed and kept.
   * EPERM: sealed `WRITE` or `FUTURE_WRITE`.
   */
  returnPages(fd: number, offset: number, byteLength: number): void;

  /** Bytes of a page of memory. */
  pageSize(): number;

  /**
   * A connected Unix stream socket. EAGAIN: the listener's backlog is full, try again later. ENOENT, ECONNREFUSED: nobody
   * listens. ENAMETOOLONG: more than 107 bytes of UTF-8. EINVAL: empty, or with a NUL.
   */
  connectSocket(path: string): number;

  /**
   * A socket bound to `path`, which gets `mode` (0–0777, whatever the umask) and, unless `gid` is -1, the group `gid`. It
   * is at no moment more open than that. The caller unlinks the path in the end; if this throws, it is unlinked already,
   * except for EADDRINUSE: then it is another's. The path's folder must not be writable by users that are not trusted.
   */
  bindSocket(path: string, mode: number, gid: number): number;

  /** Lets a bound socket accept connections; `backlog` may wait (the kernel caps it at net.core.somaxconn). */
  listenSocket(fd: number, backlog: number): void;

  /**
   * The next waiting connection, or -1. EMFILE: out of descriptors; the connection goes on waiting, so a watch on the
   * listener reports it again at once: pause before the next try.
   */
  acceptSocket(fd: number): number;

  /**
   * Sends without waiting; the bytes taken, which may be fewer than given, or -1 if the peer's buffer is full. At least
   * one byte; at most 16 descriptors. The descriptors go with the first byte: send what remains without them. The kernel
   * holds copies of them, so the caller's may be closed at once. EPIPE: the peer has gone.
   */
  sendMessage(fd: number, bytes: Uint8Array, descriptors: readonly number[]): number;

  /**
   * Reads what is there into `into` (at least one byte long), up to its length, and the descriptors with it. One read
   * never joins the descriptors of two messages. EMSGSIZE: more than 16 descriptors came; EMFILE: they could not be
   * taken for want of room in this process's table; after either, all that came are closed and the bytes are lost, so
   * the connection has to end. ECONNRESET: the peer closed without reading everything.
   */
  receiveMessage(fd: number, into: Uint8Array): ReceivedMessage;

  /** Who was at the other end when the connection was made. ENOTCONN if there is none. */
  peerCredentials(fd: number): PeerCredentials;

  /**
   * Sends one zero byte. Never throws, never waits: 0, or a negative errno. -EAGAIN (-11): the peer's buffer is full, so it
   * is going to wake anyway; -EPIPE (-32), -ECONNRESET (-104): it has gone.
   */
  ringDoorbell(fd: number): number;

  /**
   * Takes the zero bytes that are there, at most 4096, and returns how many. -1: the peer hung up and there are no more
   * bytes. -2: a byte was not zero, a violation. Descriptors that came along are closed by the kernel.
   */
  clearDoorbell(fd: number): number;

  /** Ends both directions; the peer sees a hang-up. Fine if it is not connected. */
  shutdownSocket(fd: number): void;

  /** Close a descriptor exactly once: its number may be another's a moment later. */
  closeDescriptor(fd: number): void;

  /**
   * Calls `onEvent` from the event loop whenever `fd` is readable (or, on a listener, a connection waits) or the peer
   * hung up; again and again, for as long as that is so. With `hangup`, there may still be bytes to read. Errors of the
   * polling itself come as (false, true), once.
   *
   * `onEvent` runs in the async context of this call of `watch`; `process.nextTick` and promise callbacks run after it;
   * what it throws is an uncaught exception. A watch keeps the event loop alive until `unrefWatch` or `closeWatch`.
   *
   * EEXIST: this event loop watches `fd` already. EPERM: not something that can be polled, such as a file.
   */
  watch(fd: number, onEvent: (readable: boolean, hangup: boolean) => void): WatchHandle;

  /** The watch keeps the event loop alive. Nothing happens if it is so or the watch is closed. */
  refWatch(handle: WatchHandle): void;

  /** The event loop may end although the watch is open. */
  unrefWatch(handle: WatchHandle): void;

  /**
   * Ends the watch: `onEvent` is not called again, and `fd`, which stays the caller's, may be closed at once. May be
   * called inside `onEvent`, and twice. Close the watch before its descriptor, never after.
   */
  closeWatch(handle: WatchHandle): void;

  /**
   * Locks a folder against every other `lockDirectory`, also of this process; -1 if it is locked. The result is a
   * descriptor: closing it, or the process's end, unlocks. ENOENT, ENOTDIR.
   */
  lockDirectory(path: string): number;

  /** Lets another thread that could run on this core run first (sched_yield); returns at once if there is none. */
  yieldThread(): void;
  /** The number of the CPU that this thread runs on right now; -1 if the kernel does not say. */
  currentCpu(): number;
  /**
   * A descriptor that only takes a place in the table. A listener keeps one in reserve: out of descriptors, it closes the
   * spare, and can accept a connection to say so instead of leaving it in the backlog. EMFILE.
   */
  openSpare(): number;

  /** The numbers of the CPUs that this thread may run on, ascending. */
  affinity(): number[];
}

/** A failed system call, as Node's own: `code` is "ENOENT", `errno` is -2, `syscall` is "connect". */
export interface SystemError extends Error {
  code: string;
  errno: number;
  syscall: string;
}

export function isSystemError(error: unknown): error is SystemError {
  if (!(error instanceof Error)) return false;
  const { code, errno, syscall } = error as Partial<SystemError>;
  return typeof code === "string" && typeof errno === "number" && typeof syscall === "string";
}

export type LoadedAddon =
  | { readonly addon: Addon; readonly reason?: never }
  | { readonly addon: undefined; readonly reason: string };

let loaded: LoadedAddon | undefined;

/**
 * The addon, or one sentence that says why there is none and what to do. Tried once per thread, in this order: compiled
 * in the checkout, prebuilt in the package. `ISTHMUS_ADDON=none` in the environment turns it off.
 */
export function loadAddon(): LoadedAddon {
  loaded ??= tryToLoad();
  return loaded;
}

/** The addon; throws an Error with the reason if there is none. */
export function requireAddon(): Addon {
  const { addon, reason } = loadAddon();
  if (addon === undefined) throw new Error(`isthmus: the native addon is not available: ${reason}`);
  return addon;
}

function tryToLoad(): LoadedAddon {
  const { platform, arch, env } = process;
  if (env["ISTHMUS_ADDON"] === "none") {
    return { addon: undefined, reason: "turned off by the environment variable ISTHMUS_ADDON=none" };
  }
  if (platform !== "linux") return { addon: undefined, reason: `not Linux (${platform})` };

  const require = createRequire(import.meta.url);
  // This file is compiled to dist/src/os/addon.js.
  const packageRoot = new URL("../../../", import.meta.url);
  const failures: string[] = [];
  for (const place of ["build/isthmus.node", `prebuilds/${platform}-${arch}/isthmus.node`]) {
    const path = fileURLToPath(new URL(place, packageRoot));
    if (!existsSync(path)) continue;
    try {
      return { addon: require(path) as Addon };
    } catch (error) {
      failures.push(`${place} does not load: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const reason =
    failures.length > 0
      ? failures.join("; ")
      : `no prebuilt addon for ${platform}-${arch} and none was compiled; run npm run build with a C compiler`;
  return { addon: undefined, reason };
}
