/**
 * Notices a peer that hangs: its process is stopped, or its event loop is blocked for good. A dead one is noticed by
 * the hang-up of the socket, without this.
 *
 * ALIVE-1  A peer from which anything came is alive. Only one that has been silent is asked by a `ping`, and only while
 *          calls are open, or always if that is wished.
 * ALIVE-2  Silence is held against the peer only if this process could have heard it: a verdict that comes late,
 *          because this process did not run, is put off, and what lies unread is read first.
 */
import { clearTimeout, nowMs, setImmediate, setTimeout } from "../os/timers.js";

export interface KeepAliveOptions {
  /** After how long a silence the peer is asked for a sign of life, in milliseconds; 20,000 by default. */
  readonly intervalMs?: number;
  /**
   * How long it may take to give one, in milliseconds; 20,000 by default. An event loop that is blocked for longer
   * counts as dead.
   */
  readonly timeoutMs?: number;
  /** Whether connections without open calls are watched too; they are not by default. */
  readonly always?: boolean;
}

export interface Watched {
  framesReceived(): number;
  hasCalls(): boolean;
  ping(): void;
  /** It has been silent for too long. */
  cancel(silentMs: number): void;
}

/** What a peer that was given up is said to have done. */
export function hangs(peer: string, silentMs: number): string {
  return `no sign of life from the ${peer} for ${silentMs} ms (option keepAlive); its process is stopped, or its event loop is blocked`;
}

/** A timer is never late by more than this in a process that runs. */
const LATE_MS_MAX = 250;
/** Turns of the event loop in which what has arrived is read. */
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

  /** Calls are open. */
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
    // Open calls keep the process alive, this does not.
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

  /** Unless there was a sign of life, or nobody wants to know any more. */
  private goOn(next: () => void): void {
    if (this.wanted && !this.wasHeard()) return next();
    this.timer = undefined;
    if (this.wanted) this.rest();
  }

  private wasHeard(): boolean {
    return this.peer.framesReceived() !== this.frames;
  }
}
