/**
 * The way of a thread that blocks to a server: connects and goes through the handshake in place. Shared memory or
 * nothing.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { joinMemory, createOwnMemory } from "../../memory/shared/segment.js";
import type { OwnMemory } from "../../memory/shared/segment.js";
import type { Addon } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";
import { FEATURE } from "../../wire/hello.js";
import { BlockingDriver } from "./driver.js";
import { BlockingSocket } from "./socket.js";
import { reachable } from "../address.js";
import { connectError } from "../handshake/connect.js";
import type { LinkOptions } from "../handshake/handshake.js";
import {
  checkAnswer,
  greeting,
  handshakeError,
  hasSharedMemory,
  isSameUser,
  sendGreeting,
} from "../handshake/handshake.js";
import { isServedByThisThread } from "../handshake/listen.js";
import { retryabilityOf } from "../handshake/retryability.js";
import { ShmCarrier } from "../shm/shm.js";

export interface BlockingLink {
  readonly carrier: ShmCarrier;
  readonly driver: BlockingDriver;
  /** Streams that may be open at once: the smaller of what both ends accept. */
  readonly maxStreams: number;
}

const BACKLOG_AGAIN_MS_MAX = 50;
/**
 * How often, and after which pause, a server that accepts and goes away is tried: one that replaces it is there soon.
 */
const ATTEMPTS_MAX = 4;
const PAUSE_MS = 10;

/**
 * @param deadline as `performance.now()` has it; before the handshake's own time limit it ends with `DeadlineExceeded`
 * @throws ConnectError
 */
export function connectNow(addon: Addon, path: string, options: LinkOptions, deadline: number): BlockingLink {
  for (let attempt = 1; ; attempt++) {
    try {
      return attemptNow(addon, path, options, deadline);
    } catch (error) {
      if (attempt === ATTEMPTS_MAX || retryabilityOf(error as ConnectError) !== "draining" || nowMs() >= deadline)
        throw error;
    }
    Atomics.wait(NEVER, 0, 0, Math.max(Math.min(PAUSE_MS * attempt, deadline - nowMs()), 0));
  }
}

function attemptNow(addon: Addon, path: string, options: LinkOptions, deadline: number): BlockingLink {
  const named = (error: unknown) => {
    const failure = ConnectError.from(error);
    if (failure.rawMessage.startsWith(`connect to ${path}`)) return failure;
    return new ConnectError(`connect to ${path}: ${failure.rawMessage}`, failure.code, undefined, undefined, error);
  };
  if (isServedByThisThread(path)) {
    throw named(
      new ConnectError(
        "the server there runs on this very thread, which a blocking call would keep from answering; call it from a worker thread or another process, or use createIsthmusTransport",
        Code.FailedPrecondition,
      ),
    );
  }
  const limit = nowMs() + options.handshakeTimeoutMs;
  const until = Math.min(deadline, limit);
  const tooLate = (what: string) => () =>
    until === deadline
      ? new ConnectError("the operation timed out before there was a connection", Code.DeadlineExceeded)
      : new ConnectError(what, Code.Unavailable);
  try {
    const socket = new BlockingSocket(
      addon,
      open(addon, path, until, tooLate("the server's backlog of connections stays full; is its event loop alive?")),
    );
    const silence = `no answer to the handshake within ${options.handshakeTimeoutMs} ms; is this an Isthmus server, is its event loop alive, and can it go on while this thread is blocked?`;
    return greetNow(socket, options, until, tooLate(silence));
  } catch (error) {
    throw named(error);
  }
}

function open(addon: Addon, path: string, until: number, tooLate: () => ConnectError): number {
  for (let delayMs = 1; ; delayMs = Math.min(delayMs * 2, BACKLOG_AGAIN_MS_MAX)) {
    try {
      return addon.connectSocket(reachable(path));
    } catch (error) {
      if (error instanceof ConnectError) throw error;
      // The server's backlog is full: it will accept in a moment.
      if (!isSystemError(error) || error.code !== "EAGAIN") throw connectError({ kind: "unix", path }, error);
    }
    if (nowMs() >= until) throw tooLate();
    Atomics.wait(NEVER, 0, 0, delayMs);
  }
}

/** Nobody notifies it. */
const NEVER = new Int32Array(new SharedArrayBuffer(4));

/** As `clientHandshake`, step by step. HANDSHAKE-1 and HANDSHAKE-2 hold. */
function greetNow(
  socket: BlockingSocket,
  options: LinkOptions,
  until: number,
  tooLate: () => ConnectError,
): BlockingLink {
  const { addon } = socket;
  const received: number[] = [];
  let own: OwnMemory | undefined;
  try {
    const hello = greeting(FEATURE.sharedMemory | FEATURE.spans, options);
    const peer = addon.peerCredentials(socket.descriptor);
    own = createOwnMemory(addon, options.geometry);
    sendGreeting(socket, hello, own);
    const answer = checkAnswer(socket.receive(received, until, tooLate), hello);
    // `greeting` required it, and `checkAnswer` looked.
    if (!hasSharedMemory(answer.features))
      throw new ConnectError("the server does not take shared memory", Code.Unavailable);
    const isShared = options.isolation === undefined ? isSameUser(peer) : options.isolation === "shared";
    const memory = joinMemory(addon, own, received.splice(0), isShared);
    const driver = new BlockingDriver(addon, socket);
    const carrier = new ShmCarrier(
      memory,
      socket,
      options.pollMicros,
      (answer.features & FEATURE.spans) !== 0,
      Atomics,
      driver,
    );
    driver.drive(carrier);
    socket.handOver(carrier);
    return { carrier, driver, maxStreams: Math.min(options.maxStreams, answer.maxStreams) };
  } catch (error) {
    own?.close();
    for (const descriptor of received.splice(0)) addon.closeDescriptor(descriptor);
    socket.close();
    throw handshakeError(error, "client");
  }
}
