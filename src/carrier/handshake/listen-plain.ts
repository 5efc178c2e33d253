/**
 * Listening with Node's own means: without the addon, and on TCP. A path is owned by the rules of `listen.ts`, as far as
 * they can be kept:
 *
 * LISTEN-1  holds: the socket is bound in a private directory, gets its mode there, and is renamed into place.
 * LISTEN-2  is weaker, because the lock is: the kernel does not remove it if its holder dies (`path-lock.ts`).
 * LISTEN-3  holds.
 */
import { chmodSync, lchownSync, lstatSync, mkdtempSync, renameSync, rmSync, unlinkSync } from "node:fs";
import { once } from "node:events";
import type { AddressInfo, Server } from "node:net";
import { connect, createServer } from "node:net";
import { dirname, join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Address } from "../address.js";
import { formatAddress, reachable } from "../address.js";
import type { Listener, ListenOptions } from "./listen.js";
import { BACKLOG, directoryTooLong, inUse, isSocketAt, listenError } from "./listen.js";
import { lockPath } from "./path-lock.js";
import { StreamSocket } from "../socket/stream-socket.js";

/** Listens on a path. Every connection goes to `onSocket`. @throws ConnectError that says what is in the way */
export async function listenPlain(
  path: string,
  options: ListenOptions,
  onSocket: (socket: StreamSocket) => void,
): Promise<Listener> {
  try {
    const release = await lockPath(undefined, path);
    try {
      if (isSocketAt(path) && options.takeover !== true && (await isServed(path))) throw inUse(path);
      return await bind(path, options, onSocket);
    } finally {
      release();
    }
  } catch (error) {
    throw listenError(path, error);
  }
}

/** Listens on a TCP port; port 0 stands for any free one. @throws ConnectError */
export async function listenTcp(
  address: Address & { kind: "tcp" },
  onSocket: (socket: StreamSocket) => void,
): Promise<Listener> {
  const server = accept(onSocket);
  const { host, port } = address;
  try {
    await listening(server, () => server.listen({ host, port, backlog: BACKLOG }));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const status =
      code === "EADDRINUSE" ? Code.AlreadyExists : code === "EACCES" ? Code.PermissionDenied : Code.Unavailable;
    throw new ConnectError(`listen on ${formatAddress(address)}: ${message}`, status, undefined, undefined, error);
  }
  return {
    address: { ...address, port: (server.address() as AddressInfo).port },
    close() {
      server.close();
      return Promise.resolve();
    },
  };
}

async function bind(path: string, options: ListenOptions, onSocket: (socket: StreamSocket) => void): Promise<Listener> {
  let closed = false;
  const server = accept((socket) => (closed ? socket.close() : onSocket(socket)));
  // Mode 0700: nobody else can reach the socket before its permissions are set.
  const folder = mkdtempSync(join(dirname(path), "."));
  try {
    const temporary = join(folder, "s");
    // Exclusive: the primary of a cluster would bind it under its own umask.
    await listening(server, () =>
      server.listen({ path: reachableOf(temporary, path), backlog: BACKLOG, exclusive: true }),
    );
    chmodSync(temporary, options.mode ?? 0o600);
    if (options.gid !== undefined) lchownSync(temporary, -1, options.gid);
    renameSync(temporary, path);
  } catch (error) {
    server.close();
    throw error;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const { ino, dev } = lstatSync(path);
  return {
    address: { kind: "unix", path },
    async close() {
      if (closed) return;
      closed = true;
      try {
        const release = await lockPath(undefined, path);
        try {
          // While our socket is open no other can have its inode number, so what is removed is ours.
          const now = lstatSync(path);
          if (now.ino === ino && now.dev === dev) unlinkSync(path);
        } finally {
          release();
        }
      } catch {
        // The socket, or the directory, was removed already.
      } finally {
        server.close();
      }
    },
  };
}

/** SUBTLE: Node would truncate a path that is too long. */
function reachableOf(temporary: string, path: string): string {
  try {
    return reachable(temporary);
  } catch {
    throw directoryTooLong(path);
  }
}

function accept(onSocket: (socket: StreamSocket) => void): Server {
  return createServer({ pauseOnConnect: true }, (accepted) => {
    // The client may have gone already.
    if (!accepted.destroyed) onSocket(StreamSocket.accept(accepted));
  });
}

async function listening(server: Server, listen: () => void): Promise<void> {
  const ready = once(server, "listening");
  listen();
  await ready;
  // Out of descriptors: libuv closes the connection, and goes on.
  server.on("error", () => {});
}

/** Whether a live server listens on the path. */
function isServed(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = connect({ path: reachable(path) });
    probe.on("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.on("error", (error: NodeJS.ErrnoException) => {
      // Refused: nobody listens on the socket, which a dead server has left behind. A full backlog is a live server.
      if (error.code === "ECONNREFUSED" || error.code === "ENOENT") resolve(false);
      else if (error.code === "EAGAIN") resolve(true);
      else reject(error);
    });
  });
}
