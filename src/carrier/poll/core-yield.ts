/** Gives the core to a peer that shares it, unless it lately went to somebody who kept it. */
import type { Addon } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";

/** A peer with an answer gives the core back sooner than this. */
const YIELD_MILLIS_MAX = 0.5;
const PAUSE_MILLIS_MIN = 1;
const PAUSE_MILLIS_MAX = 256;

/** All times are milliseconds as `performance.now()` has them. */
export class CoreYield {
  private readonly addon: Addon | undefined;
  private againAt = 0;
  private pauseMillis = PAUSE_MILLIS_MIN;

  constructor(addon: Addon | undefined) {
    this.addon = addon;
  }

  /** Whether giving the core away is not paused. */
  isDue(now: number): boolean {
    return now >= this.againAt;
  }

  yield(now: number): void {
    this.addon?.yieldThread();
    if (nowMs() - now <= YIELD_MILLIS_MAX) {
      this.pauseMillis = Math.max(this.pauseMillis * 0.9, PAUSE_MILLIS_MIN);
      return;
    }
    // The core went to somebody who kept it: not tried again for a while, and longer if that goes on.
    this.pauseMillis = Math.min(this.pauseMillis * 4, PAUSE_MILLIS_MAX);
    this.againAt = now + this.pauseMillis;
  }
}
