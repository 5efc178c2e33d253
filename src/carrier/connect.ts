/** A client's way to a server: connects to the path and goes through the handshake, or says what is wrong with the path. */
import { lstatSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon } from "../os/addon.js";
import { isSystemError } from "../os/addon.js";
import type { Link, LinkOptions } from "./handshake.js";
import { ControlSocket, greet } from "./handshake.js";

/**
 * @param signal gives up; its reason is a ConnectError
 * @throws ConnectError
 */
export async function connect(addon: Addon, path: string, options: LinkOptions, signal: AbortSignal): Promise<Link> {
  const abort = new AbortController();
  const onAbort = () => abort.abort(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  let connected = false;
  const timer = setTimeout(() => {
    const text = connected
      ? `no answer to the handshake within ${options.handshakeTimeoutMs} ms; is this an Isthmus server, and is its event loop alive?`
      : "the server's backlog of connections stays full; is its event loop alive?";
    abort.abort(new ConnectError(text, Code.Unavailable));
  }, options.handshakeTimeoutMs);
  try {
    const descriptor = await open(addon, path, abort.signal);
    connected = true;
    const socket = makeSocket(addon, path, descriptor);
    return await greet(addon, socket, options, abort.signal);
  } catch (error) {
    const failure = ConnectError.from(error);
    if (failure.rawMessage.startsWith(`connect to ${path}`)) throw failure;
    throw new ConnectError(`connect to ${path}: ${failure.rawMessage}`, failure.code, undefined, undefined, error);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

function makeSocket(addon: Addon, path: string, descriptor: number): ControlSocket {
  try {
    return new ControlSocket(addon, descriptor);
  } catch (error) {
    throw connectError(path, error);
  }
}

async function open(addon: Addon, path: string, signal: AbortSignal): Promise<number> {
  for (let delayMs = 1; ; delayMs = Math.min(delayMs * 2, 50)) {
    try {
      return addon.connectSocket(path);
    } catch (error) {
      // The server's backlog is full: it will accept in a moment.
      if (!isSystemError(error) || error.code !== "EAGAIN") throw connectError(path, error);
    }
    await sleep(delayMs);
    signal.throwIfAborted();
  }
}

function connectError(path: string, error: unknown): ConnectError {
  const code = isSystemError(error) ? error.code : undefined;
  const make = (text: string, status: Code) => new ConnectError(`connect to ${path}: ${text}`, status, undefined, undefined, error);
  switch (code) {
    case "ENOENT":
      return make("no such path; is the server running, and is this the path that it listens on?", Code.Unavailable);
    case "ENOTDIR":
      return make("a part of the path is not a directory", Code.Unavailable);
    case "EACCES":
    case "EPERM":
      return make("permission denied; the server decides by the socket's mode and gid who may connect", Code.PermissionDenied);
    case "ECONNREFUSED":
      if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === false) return make("this is not a socket", Code.Unavailable);
      return make("nobody listens there; the server has stopped", Code.Unavailable);
    case "EMFILE":
    case "ENFILE":
      return make(`no descriptor left for another connection (${code}); raise the limit of open files (ulimit -n)`, Code.ResourceExhausted);
    default:
      return make(error instanceof Error ? error.message : String(error), Code.Unavailable);
  }
}
