/**
 * How a thread that blocks reaches a server: connects and goes through the handshake in place. Shared memory or
 * nothing.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";
import { reachable } from "../address.js";
import { BlockingDriver } from "../blocking/driver.js";
import { BlockingSocket } from "../blocking/socket.js";
import { retryabilityOf } from "../retryability.js";
import { ShmCarrier } from "../shm/shm.js";
import { BACKLOG_FULL, connectError, noAnswer } from "./connect-error.js";
import { HandshakeEnd, handshakeError } from "./end.js";
import type { LinkOptions } from "./link.js";
import { isServedByThisThread } from "./listen.js";
import { clientEnd } from "./protocol.js";

export interface BlockingLink {
  readonly carrier: ShmCarrier;
  readonly driver: BlockingDriver;
  /** Streams that may be open at once: the smaller of what both ends accept. */
  readonly maxStreams: number;
}

/** When to give up, and the error then. */
interface Limit {
  /** As `performance.now()` has it. */
  readonly until: number;
  /** @param text what went wrong, unless the caller's own deadline comes first */
  readonly tooLate: (text: string) => ConnectError;
}

const BACKLOG_AGAIN_MS_MAX = 50;
/**
 * Number of attempts, and the pause after the first one, if a server accepts and goes away: the one that replaces it
 * will be there soon.
 */
const ATTEMPTS_MAX = 4;
const PAUSE_MS = 10;

/** Nobody notifies it. */
const NEVER = new Int32Array(new SharedArrayBuffer(4));

/**
 * @param deadline as `performance.now()` has it. If it comes before the handshake's own time limit, the attempt ends
 *   with `DeadlineExceeded`
 * @throws ConnectError
 */
export function connectNow(addon: Addon, path: string, options: LinkOptions, deadline: number): BlockingLink {
  for (let attempt = 1; ; attempt++) {
    try {
      return attemptNow(addon, path, options, deadline);
    } catch (error) {
      const failure = connectError({ kind: "unix", path }, error);
      if (attempt === ATTEMPTS_MAX || retryabilityOf(failure) !== "draining" || nowMs() >= deadline) throw failure;
    }
    Atomics.wait(NEVER, 0, 0, Math.max(Math.min(PAUSE_MS * attempt, deadline - nowMs()), 0));
  }
}

/** @throws ConnectError, or the system's error if the socket could not be opened */
function attemptNow(addon: Addon, path: string, options: LinkOptions, deadline: number): BlockingLink {
  if (isServedByThisThread(path)) {
    throw new ConnectError(
      "the server there runs on this very thread, which a blocking call would keep from answering; call it from a worker thread or another process, or use createIsthmusTransport",
      Code.FailedPrecondition,
    );
  }
  const until = Math.min(deadline, nowMs() + options.handshakeTimeoutMs);
  const tooLate = (text: string) =>
    until === deadline
      ? new ConnectError("the operation timed out before there was a connection", Code.DeadlineExceeded)
      : new ConnectError(text, Code.Unavailable);
  const limit: Limit = { until, tooLate };
  return shakeHands(new BlockingSocket(addon, open(addon, path, limit)), options, limit);
}

/** Tries again while the server's backlog is full: it will accept in a moment. */
function open(addon: Addon, path: string, { until, tooLate }: Limit): number {
  for (let delayMs = 1; ; delayMs = Math.min(delayMs * 2, BACKLOG_AGAIN_MS_MAX)) {
    try {
      return addon.connectSocket(reachable(path));
    } catch (error) {
      if (!isSystemError(error) || error.code !== "EAGAIN") throw error;
    }
    if (nowMs() >= until) throw tooLate(BACKLOG_FULL);
    Atomics.wait(NEVER, 0, 0, delayMs);
  }
}

/** Drives the client's machine, as `clientHandshake` does in an event loop. HANDSHAKE-1 holds. */
function shakeHands(socket: BlockingSocket, options: LinkOptions, { until, tooLate }: Limit): BlockingLink {
  const { addon } = socket;
  const silence = () =>
    tooLate(
      noAnswer(
        options.handshakeTimeoutMs,
        "is this an Isthmus server, is its event loop alive, and can it go on while this thread is blocked?",
      ),
    );
  let end: HandshakeEnd | undefined;
  try {
    end = new HandshakeEnd("client", socket, options, addon.peerCredentials(socket.descriptor));
    const handshake = clientEnd(end, options, false);
    let step = handshake.next();
    while (step.done !== true) step = handshake.next(socket.receive(end.received, until, silence));
    const { spans, maxStreams } = step.value;
    const driver = new BlockingDriver(addon, socket);
    const carrier = new ShmCarrier({ ...end.joined, line: socket, pollMicros: options.pollMicros, spans, driver });
    driver.drive(carrier);
    socket.handOver(carrier);
    return { carrier, driver, maxStreams };
  } catch (error) {
    end?.close();
    socket.close();
    throw handshakeError(error, "client");
  }
}
