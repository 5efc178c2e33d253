/**
 * Sessions of HTTP/2 at a server, and the end of those that are over.
 *
 * HTTP-5  A session that is over ends with its socket, whatever the client does. SUBTLE: when a client breaks the
 *         protocol, nghttp2 sends GOAWAY and takes part no more. Node 20 mostly tells nobody: it stops reading, so that
 *         it does not even notice when the client goes. And where it does destroy the session, it waits for the client
 *         to read what was written, and to close too.
 *
 * So each session is looked at twice a second. One that has read something and is quiet again is sent a PING. If that
 * is not written although nothing is in its way, the session is over. Whether the client answers does not matter: it
 * may be stopped, or far away.
 */
import type { ServerHttp2Session } from "node:http2";
import { constants } from "node:http2";
import type { Socket } from "node:net";
import { clearInterval, nowMs, setInterval } from "../../os/timers.js";

const LOOK_MS = 500;
/**
 * How many looks in a row a PING must have stayed unwritten. One alone may fall between the end of a write and the
 * next.
 */
const LOOKS_UNWRITTEN = 2;
/** How many looks a destroyed session's client is given to read the last words, … */
const LOOKS_TO_READ = 2;
/** … and if it does not take them. */
const LOOKS_TO_TAKE = 60;
/** A PING, and the answer to one. */
const PING_BYTES = 17;

interface Watched {
  readonly session: ServerHttp2Session;
  readonly socket: Socket;
  readonly sinceMs: number;
  /** Whether the client has sent its settings. */
  greeted: boolean;
  /** Whether the session ended by an error. */
  failed: boolean;
  /** What had been read at the last look, without answers to PINGs. */
  bytesRead: number;
  /** Whether a PING was sent since. */
  settled: boolean;
  /** What had been written when a PING was sent that is not known to be written. */
  bytesWritten: number | undefined;
  /** Looks in a row that found the same. */
  looks: number;
}

export class Http2Sessions {
  private readonly watched = new Map<ServerHttp2Session, Watched>();
  private readonly greetingTimeoutMs: number;
  private timer: NodeJS.Timeout | undefined;

  /** @param greetingTimeoutMs how long a client may take to send its settings */
  constructor(greetingTimeoutMs: number) {
    this.greetingTimeoutMs = greetingTimeoutMs;
  }

  /** @param socket what the session reads from: with TLS the one that decrypts */
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
    // Its calls are told by their own ends.
    session.on("error", () => (watched.failed = true));
    // Whichever end comes first brings the other one.
    session.once("close", () => this.end(watched));
    socket.once("close", () => this.end(watched));
    this.timer ??= setInterval(() => this.look(), LOOK_MS).unref();
  }

  /** No further calls; each session ends when it has none. */
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
    // Node sends no PING of a session that closes when its calls are over; those are waited for as long as the server's
    // `close` allows.
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
      // Node keeps ten at most without an answer, and answers come before what is sent later.
      if (!isSent) this.end(watched);
    }
  }

  /** Whether the PING was written; ends the session if it will not be. */
  private isWritten(watched: Watched): boolean {
    if (watched.socket.bytesWritten !== watched.bytesWritten) {
      watched.bytesWritten = undefined;
      return true;
    }
    // A client that does not read what it gets keeps the PING waiting too.
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

  /** The session is over, and its socket still there. */
  private linger(watched: Watched): void {
    if (watched.bytesWritten !== undefined) {
      watched.bytesWritten = undefined;
      watched.looks = 0;
    }
    // Whoever still sends, for example room for more, may still be reading the end of an answer.
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

/** Whether what was written waits for the client to read. Where that cannot be known, it may. */
function isBlocked(socket: Socket): boolean {
  const { _handle: handle } = socket as { _handle?: { writeQueueSize?: number } | null };
  return handle?.writeQueueSize !== 0;
}
