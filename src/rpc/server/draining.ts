/**
 * The end of a server's connection that goes away: it is drained of its calls, then closed.
 *
 * DRAIN-1  A connection that goes away still takes requests until the client has said `goAway` too: they were sent
 *          before the client knew. So no request is refused that a client could have sent in good faith, and none has
 *          to be sent twice. The connection is closed when all requests are answered and the client has said `goAway`,
 *          or some time after the last answer if the client does not say it.
 */
import { clearTimeout, setImmediate, setTimeout } from "../../os/timers.js";

/** How long a client may take to read its last answers before the connection is closed. */
const READ_GRACE_MS = 100;
/**
 * How long a client without open calls may take to say that it sends no more requests. Its event loop may be late. If
 * it hangs, it never says so.
 */
const CONSENT_GRACE_MS = 5000;
/**
 * The same for a client that knows unary calls only. It may block its thread between calls: then it says so with its
 * next call, and sends again what was not taken. An older client never says so.
 */
const CONSENT_GRACE_UNARY_MS = 1000;
/** Turns of the event loop in which frames that have arrived are read. */
const TURNS = 3;

/** The connection as its draining sees it. */
export interface DrainedConnection {
  /** Whether it is open, all its calls are answered, and all frames have left. */
  isIdle(): boolean;
  close(detail: string): void;
}

export class Draining {
  /** Resolves when the connection has closed. */
  readonly ended: Promise<void>;
  /** The client has said `goAway`: it sends no more requests. */
  clientLeft = false;
  private readonly connection: DrainedConnection;
  private readonly consentMs: number;
  private resolveEnded!: () => void;
  private goodbye: NodeJS.Timeout | undefined;

  /** @param hasStreams whether the client knows streams */
  constructor(connection: DrainedConnection, hasStreams: boolean) {
    this.connection = connection;
    this.consentMs = hasStreams ? CONSENT_GRACE_MS : CONSENT_GRACE_UNARY_MS;
    this.ended = new Promise((resolve) => (this.resolveEnded = resolve));
  }

  /**
   * To be called whenever a call or a frame has left. The client closes the connection when it has read its last answer
   * and `goAway`. If it does not, the server closes it a little later.
   */
  closeIfIdle(): void {
    if (this.goodbye !== undefined || !this.connection.isIdle()) return;
    const onTime = () => {
      this.goodbye = undefined;
      this.lookAndClose(TURNS);
    };
    this.goodbye = setTimeout(onTime, this.clientLeft ? READ_GRACE_MS : this.consentMs);
  }

  /** SUBTLE: after a pause of this process, its timers fire before frames that arrived meanwhile are read. */
  private lookAndClose(turns: number): void {
    if (this.goodbye !== undefined || !this.connection.isIdle()) return;
    if (turns === 0) this.connection.close("the server has shut down");
    else setImmediate(() => this.lookAndClose(turns - 1));
  }

  /** The client has said `goAway`. */
  onGoAway(): void {
    if (this.clientLeft) return;
    this.clientLeft = true;
    this.stayOpen();
    this.closeIfIdle();
  }

  /** A call has begun, or the connection has closed. */
  stayOpen(): void {
    clearTimeout(this.goodbye);
    this.goodbye = undefined;
  }

  onClosed(): void {
    this.resolveEnded();
  }
}
