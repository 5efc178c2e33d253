/**
 * A server's socket path: who owns it, how it is taken and released.
 *
 * LISTEN-1  The socket is bound under a temporary name with its mode set, then renamed into place. A visible socket can
 *           already be connected to, with the permissions that were asked for.
 * LISTEN-2  Whether a server already listens on the path is decided under a lock beside it (`path-lock.ts`). So of two
 *           servers that start at once exactly one wins, and a stale socket is replaced. The lock leaves no file behind.
 * LISTEN-3  On close the path is removed only if it is still our socket.
 * LISTEN-4  From Linux 6.16 on, a socket takes descriptors only from a peer that was admitted and with which this side
 *           shares memory.
 */
import type cluster from "node:cluster";
import { randomBytes } from "node:crypto";
import { lstatSync, renameSync, statSync, unlinkSync } from "node:fs";
import type { SecureServerOptions } from "node:http2";
import { dirname, join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon, WatchHandle } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import { requireHere } from "../../os/package-files.js";
import { clearTimeout, setTimeout } from "../../os/timers.js";
import type { Address } from "../address.js";
import { reachable } from "../address.js";
import type { Unlock } from "./path-lock.js";
import { lockPath } from "./path-lock.js";

export interface ListenOptions {
  /** Permission bits of the socket; 0o600 by default. */
  readonly mode?: number;
  /** Group of the socket; the process's own by default. */
  readonly gid?: number;
  /** Take over the path of a server that is alive: new clients come here, existing connections stay there. */
  readonly takeover?: boolean;
  /**
   * Key, certificate and other options of `http2.createSecureServer`; required for `https://` addresses.
   */
  readonly tls?: SecureServerOptions;
}

export interface Listener {
  readonly address: Address;
  /** Stops accepting connections. Resolves when the path is removed too. */
  close(): Promise<void>;
}

export const BACKLOG = 1024;
/** How long to wait before accepting again after running out of descriptors. */
const ACCEPT_PAUSE_MS = 100;

/** Device and inode of the sockets that this thread accepts connections on. */
const servedHere = new Set<string>();

/** Whether this very thread accepts the connections to `path`. False also if nothing is there. */
export function isServedByThisThread(path: string): boolean {
  if (servedHere.size === 0) return false;
  try {
    const { dev, ino } = statSync(path);
    return servedHere.has(`${dev}:${ino}`);
  } catch {
    return false;
  }
}

/**
 * Listens on `path`. The descriptor of every accepted socket goes to `onSocket`, which owns it. `onSpare` is given one
 * that was accepted with the descriptor kept in reserve, to be refused and closed at once.
 * @throws ConnectError that says what is in the way
 */
export async function listen(
  addon: Addon,
  path: string,
  options: ListenOptions,
  onSocket: (descriptor: number) => void,
  onSpare: (descriptor: number, error: Error) => void,
): Promise<Listener> {
  const unlock = await lockToListen(addon, path);
  let socket = -1;
  try {
    inspectPath(addon, path, options.takeover === true);
    // Short, since the whole path must fit the socket limit too.
    const temporary = join(dirname(path), `.${randomBytes(4).toString("hex")}`);
    socket = bind(addon, temporary, path, options);
    try {
      // Where the kernel can, nobody sends descriptors before the server has looked at his credentials (LISTEN-4).
      addon.refuseDescriptors(socket, true);
      addon.listenSocket(socket, BACKLOG);
      renameSync(temporary, path);
    } catch (error) {
      unlinkSync(temporary);
      throw error;
    }
    return serve(addon, path, socket, onSocket, onSpare);
  } catch (error) {
    if (socket >= 0) addon.closeDescriptor(socket);
    throw listenError(path, error);
  } finally {
    unlock();
  }
}

/** @throws ConnectError */
async function lockToListen(addon: Addon, path: string): Promise<Unlock> {
  try {
    return await lockPath(addon, path);
  } catch (error) {
    throw listenError(path, error);
  }
}

function bind(addon: Addon, temporary: string, path: string, options: ListenOptions): number {
  try {
    return addon.bindSocket(reachable(temporary), options.mode ?? 0o600, options.gid ?? -1);
  } catch (error) {
    if (error instanceof ConnectError) throw directoryTooLong(path);
    if (isSystemError(error) && error.syscall === "chown") {
      const refused = (text: string, code: Code) =>
        new ConnectError(`listen on ${path}: ${text}`, code, undefined, undefined, error);
      if (error.code === "EINVAL")
        throw refused(
          `gid ${options.gid} has no number in this user namespace; use a group that exists in this container`,
          Code.InvalidArgument,
        );
      if (error.code === "EPERM")
        throw refused(
          `this process is not a member of group ${options.gid} and cannot give the socket to it`,
          Code.PermissionDenied,
        );
    }
    throw error;
  }
}

function serve(
  addon: Addon,
  path: string,
  socket: number,
  onSocket: (descriptor: number) => void,
  onSpare: (descriptor: number, error: Error) => void,
): Listener {
  const { ino, dev } = lstatSync(path);
  const inode = `${dev}:${ino}`;
  let closed = false;
  let watch: WatchHandle;
  /** A reserve, so that a client can be told "out of descriptors" instead of waiting in the backlog. */
  let spare: number | undefined = addon.openSpare();
  let resuming: NodeJS.Timeout | undefined;
  const accept = () => {
    for (;;) {
      let descriptor: number;
      try {
        descriptor = addon.acceptSocket(socket);
      } catch (error) {
        return turnAway(error as Error);
      }
      if (descriptor < 0) return;
      onSocket(descriptor);
      if (closed) return;
    }
  };
  /** Out of descriptors: tells the clients that wait, one after the other on the reserve, and accepts again later. */
  const turnAway = (error: Error) => {
    try {
      for (let told = 0; told < BACKLOG && spare !== undefined && !closed; told++) {
        addon.closeDescriptor(spare);
        spare = undefined;
        const descriptor = addon.acceptSocket(socket);
        if (descriptor >= 0) onSpare(descriptor, error);
        spare = addon.openSpare();
        if (descriptor < 0) break;
      }
    } catch {
      // Not even the reserve is left. Other clients stay in the backlog.
    }
    if (closed) return;
    addon.closeWatch(watch);
    resuming = setTimeout(resume, ACCEPT_PAUSE_MS);
  };
  const resume = () => {
    try {
      start();
    } catch {
      // No memory for a watch now. Clients wait in the backlog.
      resuming = setTimeout(resume, ACCEPT_PAUSE_MS);
    }
  };
  const start = () => {
    resuming = undefined;
    try {
      spare ??= addon.openSpare();
    } catch {
      // Still none. Accepting may work all the same.
    }
    watch = addon.watch(socket, accept);
  };
  try {
    start();
  } catch (error) {
    if (spare !== undefined) addon.closeDescriptor(spare);
    throw error;
  }
  servedHere.add(inode);
  return {
    address: { kind: "unix", path },
    async close() {
      if (closed) return;
      closed = true;
      if (resuming === undefined) addon.closeWatch(watch);
      else clearTimeout(resuming);
      if (spare !== undefined) addon.closeDescriptor(spare);
      try {
        await removePath(addon, path, ino, dev);
      } finally {
        // Only now may another socket get the number of the inode.
        servedHere.delete(inode);
        addon.closeDescriptor(socket);
      }
    },
  };
}

/**
 * LISTEN-3. Removes the path under the lock, or a server that starts right now could lose its socket. While our socket is
 * open no other can have its inode number, so what is removed is ours.
 */
async function removePath(addon: Addon, path: string, ino: number, dev: number): Promise<void> {
  let unlock: Unlock | undefined;
  try {
    unlock = await lockPath(addon, path);
    const now = lstatSync(path);
    if (now.ino === ino && now.dev === dev) unlinkSync(path);
  } catch {
    // The socket, or the directory, was removed already, or another process keeps the lock.
  } finally {
    unlock?.();
  }
}

/** @throws if something is at `path` that must not be replaced */
function inspectPath(addon: Addon, path: string, takeover: boolean): void {
  if (!isSocketAt(path)) return;
  if (takeover) return;
  let probe: number;
  try {
    probe = addon.connectSocket(reachable(path));
  } catch (error) {
    // Refused: nobody listens on the socket, which a dead server has left behind.
    if (isSystemError(error) && (error.code === "ECONNREFUSED" || error.code === "ENOENT")) return;
    // A full backlog is a live server.
    if (!isSystemError(error) || error.code !== "EAGAIN") throw error;
    throw inUse(path);
  }
  addon.closeDescriptor(probe);
  throw inUse(path);
}

/** Whether there is a socket. @throws ConnectError if there is something else */
export function isSocketAt(path: string): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found?.isSocket() === false) {
    throw new ConnectError(
      `listen on ${path}: something is there that is not a socket; remove it or choose another path`,
      Code.AlreadyExists,
    );
  }
  return found !== undefined;
}

export function directoryTooLong(path: string): ConnectError {
  return new ConnectError(
    `listen on ${path}: the directory's path is too long for a Unix socket; use a shorter one`,
    Code.InvalidArgument,
  );
}

export function inUse(path: string): ConnectError {
  // Loaded only here, because it is not free.
  const { isWorker } = requireHere("node:cluster") as typeof cluster;
  const advice = isWorker
    ? "perhaps another worker of this cluster: one process listens on a path; let one process listen and use its option `workers`, or give each worker of the cluster a path of its own (docs/cluster.md)"
    : "stop that server, or pass takeover: true to replace it";
  return new ConnectError(`listen on ${path}: a live server has it; ${advice}`, Code.AlreadyExists);
}

export function listenError(path: string, error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  const detail = error instanceof Error ? error.message : String(error);
  const because = (hint: string, status: Code) =>
    new ConnectError(`listen on ${path}: ${hint} (${detail})`, status, undefined, undefined, error);
  switch (code) {
    case "ENOENT":
      return because(`the directory ${dirname(path)} does not exist; create it first`, Code.NotFound);
    case "ENOTDIR":
      return because("a part of the path is not a directory", Code.InvalidArgument);
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return because("permission denied; the directory must be writable for this user", Code.PermissionDenied);
    case "EMFILE":
    case "ENFILE":
      return because("no descriptor left", Code.ResourceExhausted);
    default:
      return because("failed", Code.Unavailable);
  }
}
