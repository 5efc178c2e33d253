/**
 * The typed door to the native addon, and the only module that loads it. The addon makes system calls and nothing else;
 * what the bytes of a segment mean is decided above this folder.
 *
 * Invariants: descriptors are plain numbers and belong to the thread that got them from here, until `closeDescriptor`
 * or `handOverDescriptor`; what is left of them is closed when the thread ends, and nothing else is. All sizes and
 * offsets are bytes; a failed system call throws a `SystemError`; an argument that makes no sense throws a TypeError or
 * RangeError.
 */

import { types } from "node:util";
import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { otherRuntime } from "./runtime.js";

/**
 * Seals of a segment, to be or-ed: once added, none is ever removed.
 *
 * `SEAL`: no further seals · `SHRINK`, `GROW`: the length stays · `WRITE`: nobody writes, and it cannot be added while
 * a writable mapping exists · `FUTURE_WRITE`: writable mappings that exist keep writing, new ones and `write` are
 * refused.
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
  /** Memory that the kernel has taken for it, whole pages. At least `byteLength`: fully committed, not sparse. */
  allocatedBytes: number;
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
   * A new segment of `byteLength` zero bytes: a memfd of mode 0600, close-on-exec, not executable where the kernel
   * knows that. No memory is taken until pages are touched or committed. `name` (at most 249 bytes) only shows in
   * /proc.
   */
  createSegment(name: string, byteLength: number): number;

  /** Adds seals. EPERM if it is sealed with `SEAL`; EBUSY for `WRITE` while a writable mapping exists. */
  sealSegment(fd: number, seals: number): void;

  /**
   * Seals, then length and memory. EINVAL if it is no memfd, or lies on hugetlbfs (a touch there may be SIGBUS).
   * A peer's segment must be inspected, and have `SHRINK`, before it is mapped.
   */
  inspectSegment(fd: number): SegmentInfo;

  /**
   * Maps bytes [0, byteLength) of the segment and, right behind them, its last `mirrorByteLength` bytes (up to
   * `byteLength`) once more; 0 means no mirror. Both are multiples of `pageSize()`, together below 4 GiB.
   *
   * The mapping ends when the last backing store over any part of it goes, views included: when the ArrayBuffers (or
   * what `transfer()` made of them) are collected or detached, in a later turn of the event loop, and at the latest
   * with the environment. Closing `fd` does not end it. A worker that ends takes its mappings away also from other
   * threads: what user code sees of one is kept from them (see `keepInThread`).
   *
   * TRAPS: a store through a mapping with `writable: false` is SIGSEGV; a touch beyond the file's end is SIGBUS.
   *
   * EPERM: writable, but sealed `WRITE` or `FUTURE_WRITE`. ENOMEM: the message names vm.max_map_count (a mapping counts
   * once, with a mirror twice; the process lives on). `ERR_NO_EXTERNAL_BUFFERS`: the runtime allows no foreign memory.
   */
  mapSegment(fd: number, byteLength: number, mirrorByteLength: number, writable: boolean): ArrayBuffer;

  /**
   * A new ArrayBuffer over bytes [offset, offset + byteLength) of a buffer made by `mapSegment` or `mapPrivate`; the
   * bytes are shared, not copied. It has a life of its own: the buffer that it was made from may be detached before it,
   * and the memory stays mapped until both are gone. `byteLength` is at least 1. `offset` may be any number: whether a
   * typed array of larger elements is aligned in it is the caller's matter.
   *
   * `token`, a whole number from 0 to 2^53 - 1, is what the listener set by `onViewFreed` is called with when the
   * view's backing store is gone. Tokens need not be unique. About 1 microsecond.
   *
   * TypeError: not such a buffer (a view that does not start with its mapping is none either), or detached. RangeError:
   * not in the buffer.
   *
   * V8 counts the view's length as external memory for as long as it lives. SUBTLE: it allows 64 MiB of growth between
   * two collections, so from 64 MiB on each new view drives a collection forward: 0.1 to 0.5 ms with a small heap, more
   * with a large one. Moving a view on with `transfer()`, where there is one, is not counted anew.
   */
  viewMapping(mapping: ArrayBuffer, offset: number, byteLength: number, token: number): ArrayBuffer;

  /**
   * Sets the listener of this thread, in place of the one before. It is called with a view's token once the view's
   * backing store is gone: the ArrayBuffer, or what `transfer()` made of it, was collected or detached. Nothing of the
   * view can be read by JavaScript any more then.
   *
   * It is called from the event loop, in a later turn, in the async context of this call; what it throws is an uncaught
   * exception. Waiting for it does not keep the event loop alive, and it is not called when the environment ends.
   */
  onViewFreed(listener: (token: number) => void): void;

  /**
   * Maps bytes [offset, offset + byteLength) of a regular file or a memfd, copy-on-write: the buffer can be written,
   * the file never changes through it. `offset` may be any number; `byteLength` is at least 1 and below 4 GiB. Lives as
   * a mapping of `mapSegment` does.
   *
   * TRAPS: a page that was not written yet shows what others write to the file, and if they truncate it, a touch beyond
   * its end is SIGBUS. A page that was written takes memory; being out of it then is not an error but the kernel's OOM
   * killer. A touch of a memfd's hole takes memory for the memfd too.
   *
   * EINVAL: the range reaches past the end of the file, or it is no regular file. EACCES: not open for reading. ENOMEM
   * as for `mapSegment`.
   */
  mapPrivate(fd: number, offset: number, byteLength: number): ArrayBuffer;

  /**
   * Seals the memfd `fd` for good (`WRITE`, `SHRINK`, `GROW`, `SEAL`) although it is mapped for writing by `mapping`,
   * which `mapSegment` made of the whole of it, without mirror. `mapping` and its views stay where they are, with the
   * bytes that they have, and become a private copy-on-write mapping: what is stored from then on is seen by nobody
   * else.
   *
   * If it throws, `mapping` is the shared, writable mapping that it was before, and `fd` is not sealed; should not even
   * that be possible, the message says what the mapping is instead. EBUSY: somebody else maps it for writing, or the
   * kernel itself still holds pages of it. EPERM: sealed with `SEAL` already. TypeError: not such a mapping, or of
   * another file.
   */
  sealRegion(fd: number, mapping: ArrayBuffer): void;

  /**
   * Detaches the buffer: all views on it become empty, and its memory is unmapped in a later turn of the event loop.
   * Does nothing if it is detached already. Works on any ArrayBuffer.
   * SUBTLE: a loop that maps and detaches without a turn of the event loop piles up mappings, up to vm.max_map_count.
   */
  detachMapping(buffer: ArrayBuffer): void;

  /**
   * Takes memory for a range now, so that a touch cannot fail later. Contents stay. Slow for much at once: 100 to 150
   * microseconds per MiB. ENOSPC or ENOMEM: shared memory is exhausted; EPERM: beyond the end of a segment sealed
   * `GROW`. SUBTLE: beyond the cgroup's limit the kernel may kill the process and not fail the call; look at the limit
   * first.
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
   * A connected Unix stream socket. EAGAIN: the listener's backlog is full, try again later. ENOENT, ECONNREFUSED:
   * nobody listens. ENAMETOOLONG: more than 107 bytes of UTF-8. EINVAL: empty, or with a NUL.
   */
  connectSocket(path: string): number;

  /**
   * A socket bound to `path`, which gets `mode` (0–0777, whatever the umask) and, unless `gid` is -1, the group `gid`.
   * It is at no moment more open than that. The caller unlinks the path in the end; if this throws, it is unlinked
   * already, except for EADDRINUSE: then it is another's. The path's folder must not be writable by users that are not
   * trusted.
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
   * one byte; at most 16 descriptors. The descriptors go with the first byte: send what remains without them. The
   * kernel holds copies of them, so the caller's may be closed at once. EPIPE: the peer has gone.
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
   * Sends one zero byte. Never throws, never waits: 0, or a negative errno. -EAGAIN (-11): the peer's buffer is full,
   * so it is going to wake anyway; -EPIPE (-32), -ECONNRESET (-104): it has gone.
   */
  ringDoorbell(fd: number): number;

  /**
   * Takes the bytes that are there, at most 4096, and returns how many were rings, that is zero. A byte of value 1
   * brings one descriptor, which is appended to `descriptors`: close-on-exec, the caller's to close. At most 16 come in
   * one call. What remains in the socket is reported again by its watch.
   *
   * -1: the peer hung up and there are no more bytes.
   * -2: a violation: another byte, a 1 without a descriptor, a descriptor without a 1, or more than one with it.
   * -3: a descriptor came and could not be taken, mostly for want of room in this process's table. It is lost, so the
   * connection has to end. With -2 and -3 all descriptors of the call are closed and none is appended.
   */
  clearDoorbell(fd: number, descriptors: number[]): number;

  /**
   * Sends one byte of value 1 with `descriptor`. Never throws, never waits: 0, or a negative errno. -EAGAIN (-11): the
   * peer's buffer is full, try later; -ETOOMANYREFS (-109): too many descriptors are on their way; -EPIPE (-32): the
   * peer has gone. The kernel holds a copy, so the caller's may be closed at once.
   */
  sendDescriptor(socket: number, descriptor: number): number;

  /**
   * Sends up to `byteLength` bytes (at least 1) of a regular file or memfd from `offset` on, without bringing them into
   * this process. The bytes sent, often fewer; 0: `offset` is at the file's end or past it; -1: the socket's buffer is
   * full. The file's own position is neither used nor moved. Never waits for the socket, which must be O_NONBLOCK (as
   * all of Node's and of this addon are; else EINVAL), but may wait for the file's disk. Never raises SIGPIPE.
   *
   * EPIPE, ECONNRESET: the peer has gone. ESPIPE: `file` is a pipe or a socket.
   */
  sendFile(socket: number, file: number, offset: number, byteLength: number): number;

  /** Ends both directions; the peer sees a hang-up. Fine if it is not connected. */
  shutdownSocket(fd: number): void;

  /**
   * Another descriptor for the same open file: close-on-exec, the caller's to close. An event loop watches a descriptor
   * only once; what Node watches already is watched through a duplicate. EMFILE.
   */
  duplicateDescriptor(fd: number): number;

  /**
   * Closes a descriptor that this thread got from here. EBADF: it did not, or it has closed or handed over the
   * descriptor already. The number may be another's then, so nothing is closed.
   */
  closeDescriptor(fd: number): void;

  /**
   * Calls `take` with a descriptor that this thread got from here, to give it to Node (as `new Socket({ fd })` does);
   * returns what `take` returns. From then on Node closes it, and nothing here does. If `take` throws, it must not have
   * taken the descriptor: that stays the caller's. EBADF as for `closeDescriptor`.
   */
  handOverDescriptor<T>(fd: number, take: (fd: number) => T): T;

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

  /**
   * Calls `onWritable` from the event loop once, when the socket can take bytes, or has failed so that sending says
   * why; then the watch is closed. Everything else as for `watch`, EEXIST too: `fd` cannot be watched both ways, but a
   * duplicate can. `onWritable` may watch `fd` anew.
   */
  watchWritable(fd: number, onWritable: () => void): WatchHandle;

  /** The watch keeps the event loop alive. Nothing happens if it is so or the watch is closed. */
  refWatch(handle: WatchHandle): void;

  /** The event loop may end although the watch is open. */
  unrefWatch(handle: WatchHandle): void;

  /**
   * Ends the watch: its callback is not called again, and `fd`, which stays the caller's, may be closed at once. May be
   * called inside the callback, and twice. Close the watch before its descriptor, never after.
   */
  closeWatch(handle: WatchHandle): void;

  /**
   * Blocks this thread until `fd` is readable or its peer hung up, or `timeoutMs` (at least 0, `Infinity` for ever,
   * fractions count) are over. The sum of what is so: 1 readable (a hang-up is, too, unless all was read), 2 hung up;
   * 0: the time is over. Signals do not end it, and neither does `worker.terminate()`: a worker has to wait in
   * portions.
   */
  waitReadable(fd: number, timeoutMs: number): number;

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
   * A descriptor that only takes a place in the table. A listener keeps one in reserve: out of descriptors, it closes
   * the spare, and can accept a connection to say so instead of leaving it in the backlog. EMFILE.
   */
  openSpare(): number;

  /**
   * Changes what V8 counts as memory outside of its heap by so many bytes, and returns the sum. V8 collects garbage
   * when it has grown by about 64 MiB above its lowest since the last full collection.
   */
  adjustExternalMemory(change: number): number;

  /** The numbers of the CPUs that this thread may run on, ascending. */
  affinity(): number[];
}

/** A failed system call, as Node's own: `code` is "ENOENT", `errno` is -2, `syscall` is "connect". */
export interface SystemError extends Error {
  code: string;
  errno: number;
  syscall: string;
}

/**
 * Not by its class: in a test file of jest, `Error` is that of the file's own realm, and the addon's errors are of
 * Node's.
 */
export function isSystemError(error: unknown): error is SystemError {
  // Not `instanceof`: a test runner's file may have an `Error` of its own.
  if (!types.isNativeError(error)) return false;
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
  // They load it, and end the process when it first watches a socket or is called back by an event loop that is not
  // libuv's.
  if (otherRuntime !== undefined)
    return {
      addon: undefined,
      reason: `${otherRuntime} cannot run the native addon, which needs Node's own event loop`,
    };
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
