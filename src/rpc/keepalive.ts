/**
 * Detects a peer that hangs because its process is stopped or its event loop is blocked. The hang-up of the socket
 * reveals a dead peer without this.
 *
 * ALIVE-1  A peer that has sent anything is alive. Only a silent one is sent a `ping`, and only while calls are open,
 *          unless `always` is set.
 * ALIVE-2  Silence counts only while this process could have heard the peer. If the timer fires late because this
 *          process did not run, the verdict is postponed, and unread data is read first.
 */
import { clearTimeout, nowMs, setImmediate, setTimeout } from "../os/timers.js";

/** How a peer that hangs is detected. */
export interface KeepAliveOptions {
  /** Silence after which the peer is sent a ping, in milliseconds; 20,000 by default. */
  readonly intervalMs?: number;
  /**
   * Time limit for the answer, in milliseconds; 20,000 by default. A peer whose event loop is blocked for longer counts
   * as dead.
   */
  readonly timeoutMs?: number;
  /** Whether connections without open calls are watched too; false by default. */
  readonly always?: boolean;
}

export interface Watched {
  framesReceived(): number;
  hasCalls(): boolean;
  ping(): void;
  /** The peer has been silent for too long. */
  cancel(silentMs: number): void;
}

/** The reason for giving up a peer. */
export function hangs(peer: string, silentMs: number): string {
  return `no sign of life from the ${peer} for ${silentMs} ms (option keepAlive); its process is stopped, or its event loop is blocked`;
}

/** In a process that runs, timers are never later than this. */
const LATE_MS_MAX = 250;
/** Turns of the event loop in which data that has arrived is read. */
const TURNS = 3;

export class KeepAlive {
  private readonly options: Required<KeepAliveOptions>;
  private readonly peer: Watched;
  private timer: NodeJS.Timeout | undefined;
  private frames = 0;
  private stopped = false;

  constructor(options: Required<KeepAliveOptions>, peer: Watched) {
    this.options = options;
    this.peer = peer;
    if (options.always) this.start();
  }

  /** Calls are open now. */
  start(): void {
    if (this.timer === undefined && !this.stopped) this.rest();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  private get wanted(): boolean {
    return !this.stopped && (this.options.always || this.peer.hasCalls());
  }

  private rest(): void {
    this.frames = this.peer.framesReceived();
    // Open calls keep the process alive; this timer does not.
    this.timer = setTimeout(() => this.onRested(), this.options.intervalMs).unref();
  }

  private onRested(): void {
    this.timer = undefined;
    if (!this.wanted) return;
    if (this.wasHeard()) return this.rest();
    this.peer.ping();
    if (this.wanted) this.expect();
  }

  private expect(): void {
    const due = nowMs() + this.options.timeoutMs;
    this.timer = setTimeout(() => {
      if (nowMs() - due > LATE_MS_MAX) return this.goOn(() => this.expect());
      this.judge(TURNS);
    }, this.options.timeoutMs).unref();
  }

  private judge(turns: number): void {
    if (turns > 0) {
      setImmediate(() => this.goOn(() => this.judge(turns - 1)));
      return;
    }
    this.stop();
    this.peer.cancel(this.options.intervalMs + this.options.timeoutMs);
  }

  /** Continues, unless the peer has been heard or need not be watched any more. */
  private goOn(next: () => void): void {
    if (this.wanted && !this.wasHeard()) return next();
    this.timer = undefined;
    if (this.wanted) this.rest();
  }

  private wasHeard(): boolean {
    return this.peer.framesReceived() !== this.frames;
  }
}
