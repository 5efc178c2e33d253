/**
 * How long a connection looks for work before it sleeps, learnt from how long it had to wait before.
 *
 * The window follows the longest recent wait that it could have covered. Work found by looking raises the score, a
 * window spent in vain lowers it. Without score the connection does not look for a while, longer each time. So looking
 * stops by itself where it does not pay (slow handlers, rare calls, a busy machine). It is tried again when sleeps turn
 * out to be short.
 */

/** Default of the longest time to look for work before sleeping. */
export const WINDOW_MICROS_DEFAULT = 200;
export const WINDOW_MICROS_MAX = 1000;
/** The shortest window, while looking pays at all. */
const WINDOW_MICROS_MIN = 20;
/** The window in relation to the longest recent wait. */
const MARGIN = 1.5;
const DECAY = 0.98;
const SCORE_MAX = 8;
const MISS_COST = 2;
const PAUSE_MILLIS_MIN = 1;
const PAUSE_MILLIS_MAX = 256;
/** Short sleeps in a row after which looking is tried again. */
const SHORT_SLEEPS = 2;

/** All times are in milliseconds, as `performance.now()` returns them. */
export class IdleStrategy {
  private readonly allowedMillis: number;
  private expectedMillis = WINDOW_MICROS_MIN / 1000;
  private score = SCORE_MAX / 2;
  private pauseMillis = PAUSE_MILLIS_MIN;
  private pausedUntil = 0;
  private shortSleeps = 0;
  private lastWork = 0;
  /** How long the connection looked in vain before it went to sleep. */
  private spentMillis = 0;
  private looked = false;
  private announcedUntil = 0;
  /** The connection waited for work when it went to sleep. */
  private expecting = false;

  /** @param maxMicros the longest window, in microseconds; 0: never look */
  constructor(maxMicros: number) {
    this.allowedMillis = maxMicros / 1000;
  }

  /** Work was found. */
  work(now: number): void {
    if (this.looked) {
      this.expectedMillis = Math.max(now - this.lastWork, this.expectedMillis * DECAY);
      if (this.score < SCORE_MAX && ++this.score === SCORE_MAX) this.pauseMillis = PAUSE_MILLIS_MIN;
    }
    this.looked = false;
    this.announcedUntil = 0;
    this.lastWork = now;
  }

  /** The peer rang: work has arrived, or will soon. */
  announced(now: number): void {
    this.announcedUntil = now + this.allowedMillis;
  }

  /** The event loop did other work for this long, which does not count as waiting. */
  away(millis: number): void {
    this.lastWork += millis;
  }

  /** Whether to look further at `now`. */
  lasts(now: number): boolean {
    if (now < this.announcedUntil) return true;
    if (this.score <= 0) {
      if (now < this.pausedUntil || this.shortSleeps < SHORT_SLEEPS) return false;
      this.score = 1;
    }
    const window = Math.min(Math.max(this.expectedMillis * MARGIN, WINDOW_MICROS_MIN / 1000), this.allowedMillis);
    if (now - this.lastWork >= window) return false;
    this.looked = true;
    return true;
  }

  /**
   * The connection goes to sleep.
   * @param expecting whether it waits for work, so that the length of the sleep means something
   */
  sleep(now: number, expecting: boolean): void {
    this.expecting = expecting;
    this.spentMillis = this.looked ? now - this.lastWork : 0;
    this.looked = false;
  }

  /** The connection is woken. */
  wake(now: number): void {
    const waited = now - this.lastWork;
    this.lastWork = now;
    if (!this.expecting) return;
    const short = waited < this.allowedMillis;
    this.shortSleeps = short ? this.shortSleeps + 1 : 0;
    // A longer window would have covered this wait: the window grows, and the score stays.
    const couldGrow = short && this.expectedMillis * MARGIN < waited;
    if (short) this.expectedMillis = Math.max(waited, this.expectedMillis * DECAY);
    if (this.spentMillis > 0 && !couldGrow) this.miss(now);
  }

  private miss(now: number): void {
    if (this.score <= 0) return;
    this.score -= MISS_COST;
    if (this.score > 0) return;
    this.pausedUntil = now + this.pauseMillis;
    this.pauseMillis = Math.min(this.pauseMillis * 2, PAUSE_MILLIS_MAX);
    this.shortSleeps = 0;
  }
}
