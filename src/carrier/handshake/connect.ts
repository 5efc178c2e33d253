/** How a client in an event loop reaches a server: connects to its address and goes through the handshake. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import { clearTimeout, setTimeout, sleep } from "../../os/timers.js";
import type { Address } from "../address.js";
import { reachable } from "../address.js";
import { ControlSocket } from "../shm/control-socket.js";
import { StreamSocket } from "../socket/stream-socket.js";
import { BACKLOG_FULL, connectError, noAnswer } from "./connect-error.js";
import type { HandshakeSocket } from "./handshake.js";
import { clientHandshake } from "./handshake.js";
import type { Link, LinkOptions } from "./link.js";

/** Longest pause before the next attempt, while the server's backlog is full. */
const BACKLOG_AGAIN_MS_MAX = 50;

/**
 * @param addon undefined: this process has none. It is used only for shared memory
 * @param signal cancels the attempt; its reason is a ConnectError
 * @throws ConnectError
 */
export async function connect(
  addon: Addon | undefined,
  address: Address,
  options: LinkOptions,
  signal: AbortSignal,
): Promise<Link> {
  const abort = new AbortController();
  const onAbort = () => abort.abort(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  let connected = false;
  const timer = setTimeout(() => {
    const silence = noAnswer(options.handshakeTimeoutMs, "is this an Isthmus server, and is its event loop alive?");
    abort.abort(new ConnectError(connected ? silence : BACKLOG_FULL, Code.Unavailable));
  }, options.handshakeTimeoutMs);
  try {
    const open = (): HandshakeSocket | Promise<HandshakeSocket> =>
      addon === undefined || options.lack !== undefined || address.kind === "tcp"
        ? StreamSocket.connect(address, abort.signal)
        : new ControlSocket(addon, addon.connectSocket(reachable(address.path)));
    const socket = await openPatiently(open, abort.signal);
    connected = true;
    return await clientHandshake(socket, options, abort.signal);
  } catch (error) {
    throw connectError(address, error);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

/** Tries again while the server's backlog is full: it will accept in a moment. @throws the system's error */
async function openPatiently(
  open: () => HandshakeSocket | Promise<HandshakeSocket>,
  signal: AbortSignal,
): Promise<HandshakeSocket> {
  for (let delayMs = 1; ; delayMs = Math.min(delayMs * 2, BACKLOG_AGAIN_MS_MAX)) {
    try {
      return await open();
    } catch (error) {
      if (signal.aborted || !isSystemError(error) || error.code !== "EAGAIN") throw error;
    }
    await sleep(delayMs);
    signal.throwIfAborted();
  }
}
