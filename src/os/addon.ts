/**
 * The typed interface to the native addon, and the only module that loads it. The addon makes system calls and nothing
 * else; the code above this folder decides what the bytes of a segment mean.
 *
 * Invariants: descriptors are plain numbers. A descriptor belongs to the thread that got it from here, until
 * `closeDescriptor` or `handOverDescriptor`. When a thread ends, its remaining descriptors are closed, and no others.
 * All sizes and offsets are in bytes. A failed system call throws a `SystemError`; an invalid argument throws a
 * TypeError or RangeError.
 */
import { types } from "node:util";
import { resolve } from "node:path";
import { addonAdvice, addonFiles } from "./package-files.js";
import type { PackageFile } from "./package-files.js";
import { otherRuntime } from "./runtime.js";

/**
 * Seals of a segment, which can be or-ed. A seal is never removed.
 *
 * `SEAL`: no further seals · `SHRINK`, `GROW`: the length cannot change · `WRITE`: no process can write; it cannot be
 * added while a writable mapping exists · `FUTURE_WRITE`: existing writable mappings stay writable, but new ones and
 * `write` are refused.
 */
export const SEALS = {
  SEAL: 0x01,
  SHRINK: 0x02,
  GROW: 0x04,
  WRITE: 0x08,
  FUTURE_WRITE: 0x10,
} as const;

/** The most descriptors that one message can carry. */
export const MESSAGE_DESCRIPTORS_MAX = 16;

declare const watchHandle: unique symbol;

/** A watched descriptor; opaque. Only `closeWatch` ends the watch, and not dropping this handle. */
export interface WatchHandle {
  readonly [watchHandle]: never;
}

export interface SegmentInfo {
  /** Or-ed `SEALS`. Kernels may add other bits, so compare with a mask. */
  seals: number;
  /** Final only if `seals` has `SHRINK` and `GROW`. */
  byteLength: number;
  /** Memory that the kernel has allocated for it, in whole pages. At least `byteLength` means that it is not sparse. */
  allocatedBytes: number;
}

export interface ReceivedMessage {
  /** Bytes read; 0: the peer closed; -1: there is nothing to read. */
  byteLength: number;
  /** They are close-on-exec, and the caller has to close them. */
  descriptors: number[];
}

export interface PeerCredentials {
  /** The pid when the peer connected or listened; 0 if the peer's process is not visible from this pid namespace. */
  pid: number;
  /** 65534 (the overflow uid) if the peer's user has no number in this user namespace. */
  uid: number;
  gid: number;
}

/** The namespaces of a process, as the inodes of /proc/PID/ns; 0: not known. */
export interface Namespaces {
  readonly user: number;
  readonly pid: number;
  readonly mnt: number;
}

export interface Addon {
  /**
   * Creates a segment of `byteLength` zero bytes: a memfd of mode 0600, close-on-exec, and not executable if the kernel
   * supports that. No memory is allocated until pages are touched or committed. `name` (at most 249 bytes) only shows
   * in /proc.
   */
  createSegment(name: string, byteLength: number): number;

  /** Adds seals. EPERM: it is sealed with `SEAL`. EBUSY: `WRITE` while a writable mapping exists. */
  sealSegment(fd: number, seals: number): void;

  /**
   * Returns seals, length and memory. EINVAL: it is not a memfd, or is on hugetlbfs, where a touch may raise SIGBUS.
   * Before a peer's segment is mapped, it must be inspected and have `SHRINK`.
   */
  inspectSegment(fd: number): SegmentInfo;

  /**
   * Maps bytes [0, byteLength) of the segment and, directly after them, its last `mirrorByteLength` bytes (up to
   * `byteLength`) again; 0 means no mirror. Both are multiples of `pageSize()`, and together below 4 GiB.
   *
   * The mapping ends when no backing store over any part of it is left, views included. That is in a later turn of the
   * event loop after the ArrayBuffers, and those that `transfer()` made of them, were collected or detached, and at the
   * latest when the environment ends. Closing `fd` does not end it. When a worker ends, its mappings disappear for
   * other threads too, so buffers that user code sees must stay in their thread (see `keepInThread`).
   *
   * TRAPS: a store through a mapping with `writable: false` raises SIGSEGV; a touch beyond the file's end raises
   * SIGBUS.
   *
   * EPERM: writable, but sealed `WRITE` or `FUTURE_WRITE`. ENOMEM: the message names vm.max_map_count, of which a
   * mapping takes one, or two with a mirror; the process survives. `ERR_NO_EXTERNAL_BUFFERS`: the runtime allows no
   * foreign memory.
   */
  mapSegment(fd: number, byteLength: number, mirrorByteLength: number, writable: boolean): ArrayBuffer;

  /**
   * Maps bytes [0, byteLength) of the segment for writing, and returns an ArrayBuffer over the first `shownBytes` of
   * them. So a segment that is sealed with `FUTURE_WRITE` afterwards can still be used as a whole (`showMore`), although
   * V8 counts only what is shown as external memory. Everything else is as for `mapSegment`.
   */
  mapInAdvance(fd: number, byteLength: number, shownBytes: number): ArrayBuffer;

  /**
   * Creates another ArrayBuffer over the first `byteLength` bytes of the mapping that `mapping` starts at. The caller may
   * detach `mapping`. RangeError: the mapping is shorter. TypeError as for `viewMapping`.
   */
  showMore(mapping: ArrayBuffer, byteLength: number): ArrayBuffer;

  /**
   * Creates an ArrayBuffer over bytes [offset, offset + byteLength) of a buffer made by `mapSegment` or `mapPrivate`.
   * The bytes are shared, not copied. The buffer that it was made from may be detached before it, and the memory stays
   * mapped until both are gone. `byteLength` is at least 1. `offset` may be any number, so the caller has to care for
   * the alignment of typed arrays with larger elements. Takes about 1 microsecond.
   *
   * When the view's backing store is gone, the listener set by `onViewFreed` is called with `token`, a whole number
   * from 0 to 2^53 - 1. Tokens need not be unique.
   *
   * TypeError: the buffer is detached, or is not such a buffer; a view that does not start where its mapping starts is
   * not one either. RangeError: the bytes are not in the buffer.
   *
   * V8 counts the view's length as external memory as long as the view lives. SUBTLE: V8 allows 64 MiB of growth
   * between two collections, so from 64 MiB on, each new view causes a step of a collection: 0.1 to 0.5 ms with a small
   * heap, more with a large one. Moving a view with `transfer()` does not count it again.
   */
  viewMapping(mapping: ArrayBuffer, offset: number, byteLength: number, token: number): ArrayBuffer;

  /**
   * Sets the listener of this thread, replacing the previous one. It is called with a view's token when the view's
   * backing store is gone: the ArrayBuffer, or the one that `transfer()` made of it, was collected or detached. Then
   * JavaScript cannot read the view's memory any more.
   *
   * The listener is called from the event loop, in a later turn, in the async context of this call. An error that it
   * throws is an uncaught exception. It does not keep the event loop alive, and is not called when the environment
   * ends.
   */
  onViewFreed(listener: (token: number) => void): void;

  /**
   * Maps bytes [offset, offset + byteLength) of a regular file or a memfd, copy-on-write: the buffer can be written,
   * and the file does not change. `offset` may be any number; `byteLength` is at least 1 and below 4 GiB. The mapping
   * ends as described for `mapSegment`.
   *
   * TRAPS: a page that was not written yet shows what other processes write to the file. If they truncate the file, a
   * touch beyond its end raises SIGBUS. Writing a page allocates memory; if there is none, the kernel's OOM killer
   * acts, and no error is thrown. Touching a hole of a memfd allocates memory for the memfd too.
   *
   * EINVAL: the range reaches past the end of the file, or it is not a regular file. EACCES: it is not open for
   * reading. ENOMEM as for `mapSegment`.
   */
  mapPrivate(fd: number, offset: number, byteLength: number): ArrayBuffer;

  /**
   * Seals the memfd `fd` permanently (`WRITE`, `SHRINK`, `GROW`, `SEAL`) although `mapping` maps it for writing.
   * `mapping` is one that `mapSegment` made of the whole memfd, without a mirror. It and its views stay where they are,
   * with their bytes, and become a private copy-on-write mapping: later stores are not visible to other processes.
   *
   * If this throws, `mapping` is still the shared, writable mapping that it was before, and `fd` is not sealed. If even
   * that cannot be restored, the message says what the mapping is instead. EBUSY: another mapping for writing exists,
   * or the kernel still holds pages of it. EPERM: it is sealed with `SEAL` already. TypeError: not such a mapping, or
   * one of another file.
   */
  sealRegion(fd: number, mapping: ArrayBuffer): void;

  /**
   * Detaches the buffer: all views on it become empty, and its memory is unmapped in a later turn of the event loop, or,
   * if it is of a large memfd, soon after that turn by a thread of the addon, because that may free many pages.
   * Does nothing if it is detached already. Works on any ArrayBuffer. SUBTLE: a loop that maps and detaches without a
   * turn of the event loop accumulates mappings, up to vm.max_map_count.
   */
  detachMapping(buffer: ArrayBuffer): void;

  /**
   * Allocates memory for a range now, so that a later touch cannot fail. The contents stay. Takes 100 to 150
   * microseconds per MiB. ENOSPC or ENOMEM: shared memory is exhausted. EPERM: beyond the end of a segment sealed
   * `GROW`. SUBTLE: beyond the cgroup's limit the kernel may kill the process and not fail the call, so check the limit
   * first.
   */
  commitPages(fd: number, offset: number, byteLength: number): void;

  /**
   * Returns the memory of a range to the kernel; the range reads as zeros afterwards. Partial pages at the ends are
   * zeroed and kept. EPERM: sealed `WRITE` or `FUTURE_WRITE`.
   */
  returnPages(fd: number, offset: number, byteLength: number): void;

  /** Number of mappings that the addon has now, in all threads of the process. The kernel may count some twice. */
  mappingCount(): number;

  /** The size of a memory page. */
  pageSize(): number;

  /**
   * Connects a Unix stream socket. EAGAIN: the listener's backlog is full, so try again later. ENOENT, ECONNREFUSED: no
   * process listens. ENAMETOOLONG: the path has more than 107 bytes of UTF-8. EINVAL: the path is empty, or has a NUL.
   */
  connectSocket(path: string): number;

  /**
   * Binds a socket to `path`, which gets `mode` (0–0777, regardless of the umask) and, unless `gid` is -1, the group
   * `gid`. Its permissions are never wider than that, not even for a moment. The caller unlinks the path in the end. If
   * this throws, the path is unlinked already, except with EADDRINUSE: then it belongs to another socket. The folder of
   * the path must not be writable by untrusted users.
   */
  bindSocket(path: string, mode: number, gid: number): number;

  /** Lets a bound socket accept connections. Up to `backlog` wait; the kernel caps it at net.core.somaxconn. */
  listenSocket(fd: number, backlog: number): void;

  /**
   * Accepts the next waiting connection; -1 if there is none. EMFILE: out of descriptors. The connection goes on
   * waiting, and a watch on the listener reports it again at once, so pause before the next attempt.
   */
  acceptSocket(fd: number): number;

  /**
   * Sends at least one byte and at most 16 descriptors, without waiting. Returns the number of bytes taken, which may
   * be fewer than given, or -1 if the peer's buffer is full. The descriptors go with the first byte, so send the
   * remaining bytes without them. The kernel holds copies of them, so the caller may close its own at once. EPIPE: the
   * peer has gone. EPERM: the peer refuses descriptors (`refuseDescriptors`).
   */
  sendMessage(fd: number, bytes: Uint8Array, descriptors: readonly number[]): number;

  /**
   * Reads available bytes into `into` (at least one byte long), and the descriptors that came with them. One read never
   * joins the descriptors of two messages. EMSGSIZE: more than 16 descriptors came. EMFILE: this process's table had no
   * room for them. After either, all descriptors of the read are closed, and the connection has to end. ECONNRESET: the
   * peer closed without reading everything.
   */
  receiveMessage(fd: number, into: Uint8Array): ReceivedMessage;

  /** The process at the other end when the connection was made. ENOTCONN: there is no connection. */
  peerCredentials(fd: number): PeerCredentials;

  /**
   * The namespaces of that process. What cannot be known is 0: the process has ended, this process may not inspect it
   * (as `ptrace` would need for reading), or /proc has the numbers of another namespace. Before Linux 6.5, a process
   * that ended and whose number was used again is not noticed. ENOTCONN: there is no connection.
   */
  peerNamespaces(fd: number): Namespaces;

  /** The namespaces of this process. */
  ownNamespaces(): Namespaces;

  /**
   * Sends one zero byte. Never throws and never waits. Returns 0 or a negative errno. -EAGAIN (-11): the peer's buffer
   * is full, so it will wake anyway. -EPIPE (-32), -ECONNRESET (-104): the peer has gone.
   */
  ringDoorbell(fd: number): number;

  /**
   * Reads available bytes, at most 4096, and returns how many were rings, which are zeros. A byte of value 1 comes with
   * one descriptor, which is appended to `descriptors`. It is close-on-exec, and the caller has to close it. At most 16
   * come in one call. The socket's watch reports remaining bytes again.
   *
   * -1: the peer hung up and there are no more bytes.
   * -2: a violation: another byte, a 1 without a descriptor, a descriptor without a 1, or more than one with a 1.
   * -3: a descriptor came and could not be taken, usually because this process's table has no room. It is lost, so the
   * connection has to end. With -2 and -3, all descriptors of the call are closed and none is appended.
   */
  clearDoorbell(fd: number, descriptors: number[]): number;

  /**
   * Sends one byte of value 1 with `descriptor`. Never throws and never waits. Returns 0 or a negative errno. -EAGAIN
   * (-11): the peer's buffer is full, so try later. -ETOOMANYREFS (-109): too many descriptors are in flight. -EPIPE
   * (-32): the peer has gone. The kernel holds a copy, so the caller may close its own at once.
   */
  sendDescriptor(socket: number, descriptor: number): number;

  /**
   * Sends up to `byteLength` bytes (at least 1) of a regular file or memfd from `offset` on, without reading them into
   * this process. Returns the number of bytes sent, often fewer; 0: `offset` is at or past the file's end; -1: the
   * socket's buffer is full. The file's own position is neither used nor moved. Never waits for the socket, which must
   * be O_NONBLOCK, as all sockets of Node and of this addon are (EINVAL otherwise). May wait for the file's disk. Never
   * raises SIGPIPE.
   *
   * EPIPE, ECONNRESET: the peer has gone. ESPIPE: `file` is a pipe or a socket.
   */
  sendFile(socket: number, file: number, offset: number, byteLength: number): number;

  /** Shuts down both directions; the peer sees a hang-up. Does nothing if the socket is not connected. */
  shutdownSocket(fd: number): void;

  /**
   * Creates another descriptor for the same open file. It is close-on-exec, and the caller has to close it. An event
   * loop can watch a descriptor only once, so watch one that Node watches already through a duplicate. EMFILE.
   */
  duplicateDescriptor(fd: number): number;

  /**
   * Closes a descriptor that this thread got from here. EBADF: this thread did not get it from here, or has closed or
   * handed it over already. The number may belong to another file by then, so nothing is closed.
   *
   * Never waits. Closing what a peer sent, a socket in which something that a peer sent may be queued, or a large memfd
   * can take long, so a thread of the addon does it, soon afterwards. All others are closed when this returns.
   */
  closeDescriptor(fd: number): void;

  /** How many descriptors and mappings of this process threads of the addon have yet to close. */
  closesUnderWay(): number;

  /**
   * Sets whether the kernel refuses descriptors that a peer sends to this socket: its `sendMessage` throws EPERM then.
   * Sockets that a listener accepts take it over from the listener. Returns false, and nothing is set, if the kernel
   * does not have the option (before Linux 6.16).
   */
  refuseDescriptors(fd: number, refuses: boolean): boolean;

  /**
   * Calls `take` with a descriptor that this thread got from here, to give it to Node, as with `new Socket({ fd })`,
   * and returns the result of `take`. From then on only Node closes the descriptor. If `take` throws, it must not have
   * taken the descriptor, which then still belongs to the caller. EBADF as for `closeDescriptor`.
   */
  handOverDescriptor<T>(fd: number, take: (fd: number) => T): T;

  /**
   * Calls `onEvent` from the event loop whenever `fd` is readable (on a listener: a connection waits) or the peer hung
   * up, repeatedly as long as that is so. With `hangup`, there may still be bytes to read. An error of the polling
   * itself is reported as (false, true), once.
   *
   * `onEvent` runs in the async context of this call of `watch`. `process.nextTick` and promise callbacks run after it.
   * An error that it throws is an uncaught exception. A watch keeps the event loop alive until `unrefWatch` or
   * `closeWatch`.
   *
   * EEXIST: this event loop watches `fd` already. EPERM: `fd` cannot be polled, for example because it is a file.
   */
  watch(fd: number, onEvent: (readable: boolean, hangup: boolean) => void): WatchHandle;

  /**
   * Calls `onWritable` from the event loop once, when the socket can take bytes, or has failed, in which case sending
   * reports why. Then the watch is closed. Everything else is as for `watch`, including EEXIST: to watch both ways, use
   * a duplicate of `fd`. `onWritable` may watch `fd` again.
   */
  watchWritable(fd: number, onWritable: () => void): WatchHandle;

  /** Lets the watch keep the event loop alive. Does nothing if it does so already, or is closed. */
  refWatch(handle: WatchHandle): void;

  /** Lets the event loop end although the watch is open. */
  unrefWatch(handle: WatchHandle): void;

  /**
   * Ends the watch. Its callback is not called again, and the caller, to which `fd` still belongs, may close `fd` at
   * once. May be called inside the callback, and more than once. Always close the watch before its descriptor.
   */
  closeWatch(handle: WatchHandle): void;

  /**
   * Blocks this thread until `fd` is readable, its peer hung up, or `timeoutMs` have passed (at least 0, may be a
   * fraction or `Infinity`). Returns a sum: 1 if readable (a hang-up is readable too, unless everything was read), 2 if
   * the peer hung up; 0 if the time is over. Neither signals nor `worker.terminate()` end the wait, so a worker has to
   * wait in portions.
   */
  waitReadable(fd: number, timeoutMs: number): number;

  /**
   * Locks a file against every other `lockFile`, including those of this process, after creating it with mode 0600 if
   * there is none. Returns a descriptor, or -1 if it is locked, or was removed meanwhile. Closing the descriptor, or the
   * end of the process, unlocks it. Unlink the file before that. EACCES: it belongs to another user. EISDIR, ELOOP: it is
   * a directory or a symbolic link.
   */
  lockFile(path: string): number;

  /**
   * Lets another thread that is ready to run on this core run first (sched_yield). Returns at once if there is none.
   */
  yieldThread(): void;

  /** The number of the CPU that this thread runs on right now; -1 if the kernel does not say. */
  currentCpu(): number;

  /**
   * Opens a descriptor that only takes a place in the table. A listener keeps one in reserve: when it is out of
   * descriptors, it closes the spare one, so that it can accept a connection and refuse it with the reason. EMFILE.
   */
  openSpare(): number;

  /**
   * Adds `change` to the number of bytes that V8 counts as external memory, and returns the new count. V8 collects
   * garbage when the count is about 64 MiB above its lowest value since the last full collection.
   */
  adjustExternalMemory(change: number): number;

  /** The numbers of the CPUs that this thread may run on, ascending. */
  affinity(): number[];
}

/** A failed system call, in Node's form: for example `code` "ENOENT", `errno` -2 and `syscall` "connect". */
export interface SystemError extends Error {
  code: string;
  errno: number;
  syscall: string;
}

/** Whether an error is a `SystemError`. */
export function isSystemError(error: unknown): error is SystemError {
  // Not `instanceof`: in a test file of jest, `Error` is that of the file's own realm, and the addon's errors are
  // Node's.
  if (!types.isNativeError(error)) return false;
  const { code, errno, syscall } = error as Partial<SystemError>;
  return typeof code === "string" && typeof errno === "number" && typeof syscall === "string";
}

export type LoadedAddon =
  | { readonly addon: Addon; readonly reason?: never }
  | { readonly addon: undefined; readonly reason: string };

let loaded: LoadedAddon | undefined;

/**
 * Returns the addon, or a sentence that says why there is none and what to do. The addon is looked for once per thread:
 * the file that `ISTHMUS_ADDON` in the environment names and no other, else one compiled in the checkout, one prebuilt in
 * the package, or one beside a bundle. `ISTHMUS_ADDON=none` turns it off.
 */
export function loadAddon(): LoadedAddon {
  loaded ??= tryToLoad();
  return loaded;
}

/** Returns the addon. @throws Error with the reason if there is none */
export function requireAddon(): Addon {
  const { addon, reason } = loadAddon();
  if (addon === undefined) throw new Error(`isthmus: the native addon is not available: ${reason}`);
  return addon;
}

function tryToLoad(): LoadedAddon {
  const { platform, arch, env } = process;
  const named = env["ISTHMUS_ADDON"] ?? "";
  if (named === "none") {
    return { addon: undefined, reason: "turned off by the environment variable ISTHMUS_ADDON=none" };
  }
  // These runtimes load the addon, but their event loop is not libuv's, so the first watch or callback ends the
  // process.
  if (otherRuntime !== undefined)
    return {
      addon: undefined,
      reason: `${otherRuntime} cannot run the native addon, which needs Node's own event loop`,
    };
  if (platform !== "linux") return { addon: undefined, reason: `not Linux (${platform})` };
  if (named !== "") return loadFirst([{ name: `ISTHMUS_ADDON=${named}`, path: resolve(named) }], "");
  const files = addonFiles();
  if (files.length > 0) return loadFirst(files, `; ${addonAdvice()}`);
  return { addon: undefined, reason: `there is no native addon for ${platform}-${arch}; ${addonAdvice()}` };
}

/** Loads the first file that can be loaded. */
function loadFirst(files: readonly PackageFile[], advice: string): LoadedAddon {
  const failures: string[] = [];
  for (const { name, path } of files) {
    try {
      return { addon: loadOwn(path) };
    } catch (error) {
      failures.push(`${name} does not load: ${error instanceof Error ? firstLine(error.message) : String(error)}`);
    }
  }
  return { addon: undefined, reason: `${failures.join("; ")}${advice}` };
}

/**
 * Loads the addon with a state of its own. SUBTLE: `require` would give every instance of this package in the thread (of
 * each test file in jest, of the program and of a bundle) the same functions, and the last one to call `onViewFreed`
 * would hear of the others' views.
 */
function loadOwn(path: string): Addon {
  const module: { exports: unknown } = { exports: {} };
  process.dlopen(module, path);
  return module.exports as Addon;
}

/** Without the list of modules that Node adds. */
function firstLine(text: string): string {
  return text.split("\n", 1)[0];
}
