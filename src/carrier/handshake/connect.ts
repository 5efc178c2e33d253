/**
 * A client's way to a server: connects to its address and goes through the handshake, or says what is wrong with the
 * address.
 */
import { lstatSync } from "node:fs";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import { clearTimeout, setTimeout, sleep } from "../../os/timers.js";
import type { HandshakeSocket, Link, LinkOptions } from "./handshake.js";
import type { Address } from "../address.js";
import { nameOf, reachable } from "../address.js";
import { ControlSocket } from "../shm/control-socket.js";
import { clientHandshake } from "./handshake.js";
import { withRetryability } from "./retryability.js";
import { StreamSocket } from "../socket/stream-socket.js";

/**
 * @param addon undefined: there is none. It is of use only with shared memory
 * @param signal gives up; its reason is a ConnectError
 * @throws ConnectError
 */
export async function connect(
  addon: Addon | undefined,
  address: Address,
  options: LinkOptions,
  signal: AbortSignal,
): Promise<Link> {
  const name = nameOf(address);
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
    const open = (): HandshakeSocket | Promise<HandshakeSocket> =>
      addon === undefined || options.lack !== undefined || address.kind === "tcp"
        ? StreamSocket.connect(address, abort.signal)
        : new ControlSocket(addon, addon.connectSocket(reachable(address.path)));
    const socket = await openPatiently(open, address, abort.signal);
    connected = true;
    return await clientHandshake(socket, options, abort.signal);
  } catch (error) {
    const failure = ConnectError.from(error);
    if (failure.rawMessage.startsWith(`connect to ${name}`)) throw failure;
    throw new ConnectError(`connect to ${name}: ${failure.rawMessage}`, failure.code, undefined, undefined, error);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

async function openPatiently(
  open: () => HandshakeSocket | Promise<HandshakeSocket>,
  address: Address,
  signal: AbortSignal,
): Promise<HandshakeSocket> {
  for (let delayMs = 1; ; delayMs = Math.min(delayMs * 2, 50)) {
    try {
      return await open();
    } catch (error) {
      if (signal.aborted || error instanceof ConnectError) throw error;
      // The server's backlog is full: it will accept in a moment.
      if (!isSystemError(error) || error.code !== "EAGAIN") throw connectError(address, error);
    }
    await sleep(delayMs);
    signal.throwIfAborted();
  }
}

export function connectError(address: Address, error: unknown): ConnectError {
  const { code } = error as NodeJS.ErrnoException;
  const make = (text: string, status: Code) =>
    new ConnectError(`connect to ${nameOf(address)}: ${text}`, status, undefined, undefined, error);
  const mistyped = (text: string) => withRetryability(make(text, Code.Unavailable), "permanent");
  switch (code) {
    case "ENOENT":
      return make("no such path; is the server running, and is this the path that it listens on?", Code.Unavailable);
    case "ENOTDIR":
      return mistyped("a part of the path is not a directory");
    case "EACCES":
    case "EPERM":
      return make(
        "permission denied; the server decides by the socket's mode and gid who may connect",
        Code.PermissionDenied,
      );
    case "ECONNREFUSED":
      if (address.kind === "tcp") return make("nobody listens there", Code.Unavailable);
      if (lstatSync(address.path, { throwIfNoEntry: false })?.isSocket() === false)
        return mistyped("this is not a socket");
      return make("nobody listens there; the server has stopped", Code.Unavailable);
    case "EMFILE":
    case "ENFILE":
      return make(
        `no descriptor left for another connection (${code}); raise the limit of open files (ulimit -n)`,
        Code.ResourceExhausted,
      );
    case "ENOTFOUND":
      return make("no such host", Code.Unavailable);
    default:
      return make(error instanceof Error ? error.message : String(error), Code.Unavailable);
  }
}
