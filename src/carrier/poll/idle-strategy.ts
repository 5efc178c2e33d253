/**
 * How long one connection goes on looking for work before it sleeps: learnt from how long work was waited for.
 *
 * The window follows the longest recent wait that it could have covered. Finding work by looking scores; a window spent
 * for nothing costs; without score there is no looking for a while, longer each time. So looking stops by itself where
 * it does not pay (slow handlers, rare calls, a busy machine), and is tried again when sleeps turn out to be short.
 */

/** The longest wait for work that is spent looking instead of asleep, unless the user says otherwise. */
export const WINDOW_MICROS_DEFAULT = 200;
export const WINDOW_MICROS_MAX = 1000;
/** The shortest, while looking pays at all. */
const WINDOW_MICROS_MIN = 20;
/** How much longer than the longest recent wait. */
const MARGIN = 1.5;
const DECAY = 0.98;
const SCORE_MAX = 8;
const MISS_COST = 2;
const PAUSE_MILLIS_MIN = 1;
const PAUSE_MILLIS_MAX = 256;
/** Short sleeps in a row after which looking is tried again. */
const SHORT_SLEEPS = 2;
/** After a sleep of this length, work comes now and then: a sleep costs less than looking for it. */
const SPARSE_MILLIS = 1;
/** How many times there must be work without such a sleep before it is looked for. */
const DENSE_WORKS = 4;

/** All times are milliseconds as `performance.now()` has them. */
export class IdleStrategy {
  private readonly allowedMillis: number;
  private expectedMillis = WINDOW_MICROS_MIN / 1000;
  private score = SCORE_MAX / 2;
  private pauseMillis = PAUSE_MILLIS_MIN;
  private pausedUntil = 0;
  private shortSleeps = 0;
  private lastWork = 0;
  /** How long was looked in vain before sleeping. */
  private spentMillis = 0;
  private looked = false;
  private announcedUntil = 0;
  /** Times there was work since the last long sleep. */
  private works = 0;
  /** The last sleep was begun waiting for work. */
  private expecting = false;

  /** @param maxMicros the longest window in microseconds; 0: never look */
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
    this.works++;
  }

  /** Whether work comes so rarely that staying awake after it does not pay. */
  isSparse(now: number): boolean {
    return this.works < DENSE_WORKS || now - this.lastWork >= SPARSE_MILLIS;
  }

  /** Work that is done without waking. */
  sparseWork(now: number): void {
    if (now - this.lastWork >= SPARSE_MILLIS) this.works = 0;
    this.works++;
    this.lastWork = now;
    this.expecting = false;
  }

  /** The peer rang: if nothing is there yet, it comes soon. */
  announced(now: number): void {
    this.announcedUntil = now + this.allowedMillis;
  }

  /** The event loop was away for so long: that does not count as waiting. */
  away(millis: number): void {
    this.lastWork += millis;
  }

  /** Whether to go on looking at `now`. */
  lasts(now: number): boolean {
    if (now < this.announcedUntil) return true;
    if (this.works < DENSE_WORKS) return false;
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
   * The connection goes to sleep. @param expecting whether work is waited for, so that the sleep will tell something
   */
  sleep(now: number, expecting: boolean): void {
    this.expecting = expecting;
    this.spentMillis = this.looked ? now - this.lastWork : 0;
    this.looked = false;
  }

  /** It is woken. */
  wake(now: number): void {
    const waited = now - this.lastWork;
    this.lastWork = now;
    if (waited >= SPARSE_MILLIS) this.works = 0;
    if (!this.expecting) return;
    const short = waited < this.allowedMillis;
    this.shortSleeps = short ? this.shortSleeps + 1 : 0;
    // A longer window would have covered this wait: it is learnt, not paid for.
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
