/**
 * A server's HTTP/2 sessions, and the end of those that are over.
 *
 * HTTP-5  A session that is over ends together with its socket, whatever the client does. SUBTLE: when a client
 *         violates the protocol, nghttp2 sends GOAWAY and then ignores the session. Node 20 usually does not report
 *         this: it stops reading, so it does not even notice when the client disconnects. If it does destroy the
 *         session, it waits for the client to read what was written, and to close too.
 *
 * So each session is checked twice a second. A session that has read something and is quiet again is sent a PING. If
 * the PING is not written although nothing blocks it, the session is over. It does not matter whether the client
 * answers: it may be stopped, or far away.
 */
import type { ServerHttp2Session } from "node:http2";
import { constants } from "node:http2";
import type { Socket } from "node:net";
import { clearInterval, nowMs, setInterval } from "../../os/timers.js";

const LOOK_MS = 500;
/**
 * Number of checks in a row that must find a PING unwritten. One alone may fall between the end of a write and the
 * next.
 */
const LOOKS_UNWRITTEN = 2;
/** Number of checks for which the client of a destroyed session may read what was written. */
const LOOKS_TO_READ = 2;
/** The same for a client that does not read. */
const LOOKS_TO_TAKE = 60;
/** Size of a PING, and of its answer. */
const PING_BYTES = 17;

interface Watched {
  readonly session: ServerHttp2Session;
  readonly socket: Socket;
  readonly sinceMs: number;
  /** Whether the client has sent its settings. */
  greeted: boolean;
  /** Whether the session ended with an error. */
  failed: boolean;
  /** Number of bytes read at the last check, without answers to PINGs. */
  bytesRead: number;
  /** Whether a PING has been sent since. */
  settled: boolean;
  /** Number of bytes written when a PING was sent that may still be unwritten. */
  bytesWritten: number | undefined;
  /** Number of checks in a row with the same result. */
  looks: number;
}

export class Http2Sessions {
  private readonly watched = new Map<ServerHttp2Session, Watched>();
  private readonly greetingTimeoutMs: number;
  private timer: NodeJS.Timeout | undefined;

  /** @param greetingTimeoutMs time limit for a client to send its settings */
  constructor(greetingTimeoutMs: number) {
    this.greetingTimeoutMs = greetingTimeoutMs;
  }

  /** @param socket the socket that the session reads from; with TLS, the one that decrypts */
  add(session: ServerHttp2Session, socket: Socket): void {
    const watched: Watched = {
      session,
      socket,
      sinceMs: nowMs(),
      greeted: false,
      failed: false,
      bytesRead: -1,
      settled: false,
      bytesWritten: undefined,
      looks: 0,
    };
    this.watched.set(session, watched);
    session.once("remoteSettings", () => (watched.greeted = true));
    // Errors reach the session's calls by other events.
    session.on("error", () => (watched.failed = true));
    // The end of either ends the other.
    session.once("close", () => this.end(watched));
    socket.once("close", () => this.end(watched));
    this.timer ??= setInterval(() => this.look(), LOOK_MS).unref();
  }

  /** Accepts no further calls. Each session ends when it has none. */
  close(): void {
    for (const session of this.watched.keys()) session.close();
  }

  private look(): void {
    const nowIs = nowMs();
    for (const watched of this.watched.values()) {
      if (watched.session.destroyed) this.linger(watched);
      else if (!watched.greeted && nowIs - watched.sinceMs > this.greetingTimeoutMs) this.end(watched);
      else this.check(watched);
    }
  }

  private check(watched: Watched): void {
    const { session, socket } = watched;
    // Node sends no PING on a closing session whose calls are still open. The server's `close` waits for those.
    if (session.closed) return;
    if (watched.bytesWritten !== undefined && !this.isWritten(watched)) return;
    if (this.hasRead(watched)) {
      watched.settled = false;
    } else if (!watched.settled) {
      watched.settled = true;
      watched.bytesWritten = socket.bytesWritten;
      watched.looks = 0;
      const isSent = session.ping((error) => {
        if (error === null) watched.bytesRead += PING_BYTES;
      });
      // Node keeps at most ten unanswered PINGs, and answers come before later data.
      if (!isSent) this.end(watched);
    }
  }

  /** Whether the PING was written. Ends the session if it will not be. */
  private isWritten(watched: Watched): boolean {
    if (watched.socket.bytesWritten !== watched.bytesWritten) {
      watched.bytesWritten = undefined;
      return true;
    }
    // A client that does not read delays the PING too.
    watched.looks = isBlocked(watched.socket) ? 0 : watched.looks + 1;
    if (watched.looks === LOOKS_UNWRITTEN) this.end(watched);
    return false;
  }

  private hasRead(watched: Watched): boolean {
    const { bytesRead } = watched.socket;
    if (bytesRead === watched.bytesRead) return false;
    watched.bytesRead = bytesRead;
    return true;
  }

  /** Handles a session that is over and whose socket still exists. */
  private linger(watched: Watched): void {
    if (watched.bytesWritten !== undefined) {
      watched.bytesWritten = undefined;
      watched.looks = 0;
    }
    // A client that still sends, for example window updates, may still be reading the end of a response.
    watched.looks = this.hasRead(watched) && !watched.failed ? 0 : watched.looks + 1;
    if (watched.looks >= (watched.failed || watched.socket.writableFinished ? LOOKS_TO_READ : LOOKS_TO_TAKE))
      this.end(watched);
  }

  private end({ session, socket }: Watched): void {
    if (!this.watched.delete(session)) return;
    session.destroy(undefined, constants.NGHTTP2_CANCEL);
    socket.destroy();
    if (this.watched.size > 0) return;
    clearInterval(this.timer);
    this.timer = undefined;
  }
}

/** Whether written data waits for the client to read. If this cannot be determined, it may. */
function isBlocked(socket: Socket): boolean {
  const { _handle: handle } = socket as { _handle?: { writeQueueSize?: number } | null };
  return handle?.writeQueueSize !== 0;
}
