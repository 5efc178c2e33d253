/**
 * Whether the event loop has nothing to run but the poller (POLL-5), judged turn by turn, and whether looking in place
 * is paused because it made turns late.
 */

/** A loop that takes longer to come round has run callbacks of its own. */
const QUIET_MILLIS_MAX = 0.05;
/** How often looking may keep callbacks waiting before there is a pause; quiet turns make up for it. */
const STRIKES_MAX = 3;
const STRIKES_PER_QUIET_TURN = -0.25;
const PAUSE_MILLIS_MIN = 1;
const PAUSE_MILLIS_MAX = 64;

/** All times are milliseconds as `performance.now()` has them. */
export class QuietTurns {
  /** Whether the loop had nothing else to run in its last turn. */
  isQuiet = true;
  private lookedInPlace = false;
  private strikes = 0;
  private pausedUntil = 0;
  private pauseMillis = PAUSE_MILLIS_MIN;

  /** This turn is spent looking. */
  looks(): void {
    this.lookedInPlace = true;
  }

  /** Whether looking is paused. */
  isPaused(now: number): boolean {
    return now < this.pausedUntil;
  }

  /**
   * The loop has come round. One late turn may be the scheduler's doing, so looking pauses only if it keeps happening.
   *
   * @param gapMs what the loop took to come round, without the poller and what it set off
   */
  judge(now: number, gapMs: number): void {
    this.isQuiet = gapMs <= QUIET_MILLIS_MAX;
    if (this.lookedInPlace) {
      this.strikes = Math.max(0, this.strikes + (this.isQuiet ? STRIKES_PER_QUIET_TURN : 1));
      if (this.strikes >= STRIKES_MAX) {
        this.strikes = 0;
        this.pausedUntil = now + this.pauseMillis;
        this.pauseMillis = Math.min(this.pauseMillis * 2, PAUSE_MILLIS_MAX);
      } else if (this.strikes === 0) {
        this.pauseMillis = Math.max(this.pauseMillis * 0.95, PAUSE_MILLIS_MIN);
      }
    }
    this.lookedInPlace = false;
  }
}
