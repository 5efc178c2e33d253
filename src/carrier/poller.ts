/**
 * The one poller of this event loop. It serves every awake connection: shows what was written, drains what arrived,
 * and between the user's continuations looks again for as long as that pays; then it lets the connections park and
 * sleeps in libuv until a doorbell rings or somebody sends.
 *
 * POLL-1  Within one turn of the event loop it runs for at most `budgetMicros`, counted from the turn's first activity
 *         and not renewed by work found; then the loop turns, so timers, I/O and `process.nextTick` are never starved.
 * POLL-2  It never blocks a continuation: after work it yields several microtasks before it looks in a tight loop, and
 *         that loop is short (about a microsecond).
 * POLL-3  It runs in the async context of this module's load. SUBTLE: were it started from a user's call, the drain, and
 *         with it every handler and every resolved promise, would inherit that user's AsyncLocalStorage stores.
 */

export interface Pollable {
  /** Set by the poller. */
  awake: boolean;
  /** How long polling for this connection may wait for work, in microseconds; 0: not at all. */
  readonly pollMicros: number;
  /** Shows what was written. Runs no user code. */
  flush(): void;
  /** Shows what was written and drains what arrived. True if there was anything. Must not throw. */
  step(): boolean;
  /** A cheap look: would `step` find something that arrived? */
  hasWork(): boolean;
  /** Publishes "asleep" and looks again. False: something is there, stay awake. */
  tryPark(): boolean;
  /** Publishes "awake". */
  wake(): void;
}

/** A turn of the event loop is spent polling for at most this long. */
export const BUDGET_MICROS_MAX = 200;
/** The longest wait for work, over any number of turns, that is spent looking instead of asleep. */
export const WINDOW_MICROS_DEFAULT = 200;
export const WINDOW_MICROS_MAX = 1000;
/** The shortest, while polling pays at all. */
const WINDOW_MICROS_MIN = 20;
/** Microtasks to yield after work before looking in a tight loop: what a reply takes to get through user code. */
const HOPS = 12;
const LOOKS_PER_BURST = 24;
/** A burst of looks takes about a microsecond; one that took this long was interrupted by another process. */
const PREEMPTED_MICROS = 40;
const SCORE_MAX = 8;
const MISS_COST = 2;
const PREEMPTION_COST = 3;
const PENALTY_MILLIS_MIN = 1;
const PENALTY_MILLIS_MAX = 256;

export class Poller {
  private readonly awakeList: Pollable[] = [];
  private resume: (() => void) | undefined;
  private turning = false;
  private flushQueued = false;
  private turnStart = 0;
  private turnOpen = false;
  private onTurnEnd: (() => void) | undefined;
  private readonly closeTurn = () => {
    this.turnOpen = false;
    const resume = this.onTurnEnd;
    this.onTurnEnd = undefined;
    resume?.();
  };

  // How long to look, and whether to look at all, is learnt from how long work was waited for: the window follows the
  // longest recent wait that it could have covered; a look that finds something scores, a window spent for nothing costs.
  private expectedMillis = WINDOW_MICROS_MIN / 1000;
  private score = SCORE_MAX / 2;
  private penaltyMillis = PENALTY_MILLIS_MIN;
  private pausedUntil = 0;
  /** Waits in a row that ended so soon that a window could have covered them. */
  private soonWakes = 0;

  constructor() {
    // Not awaited: it runs for as long as the event loop does and handles its own errors.
    void this.run();
  }

  /** Tells that `pollable` was written to or woken; cheap if it is awake already. */
  touch(pollable: Pollable): void {
    if (!pollable.awake) {
      this.activate(pollable);
    } else if (this.turning && !this.flushQueued) {
      // The poller's budget for this turn is spent; what is written meanwhile still goes out in this microtask.
      this.flushQueued = true;
      queueMicrotask(() => {
        this.flushQueued = false;
        for (const awake of this.awakeList) awake.flush();
      });
    }
  }

  private activate(pollable: Pollable): void {
    pollable.awake = true;
    pollable.wake();
    this.awakeList.push(pollable);
    const resume = this.resume;
    if (resume !== undefined) {
      this.resume = undefined;
      resume();
    }
  }

  /** Forgets a connection that is closed. */
  remove(pollable: Pollable): void {
    const at = this.awakeList.indexOf(pollable);
    if (at >= 0) this.awakeList.splice(at, 1);
    pollable.awake = false;
  }

  private async run(): Promise<void> {
    let hops = 0;
    let lastWork = 0;
    /** How long was looked in vain before parking; 0 if not at all. */
    let spentMillis = 0;
    let looked = false;
    for (;;) {
      if (this.awakeList.length === 0) {
        await new Promise<void>((resolve) => {
          this.resume = resolve;
        });
        const woken = performance.now();
        this.noteSleep(woken - lastWork, spentMillis, woken);
        this.openTurn(woken);
        lastWork = woken;
        spentMillis = 0;
        hops = 0;
      }
      const found = this.stepAll();
      const now = performance.now();
      if (found) {
        if (looked) this.noteHit(now - lastWork);
        looked = false;
        lastWork = now;
        hops = 0;
      }
      if (this.turnOpen && now - this.turnStart >= BUDGET_MICROS_MAX / 1000) {
        this.turning = true;
        await new Promise<void>((resolve) => {
          this.onTurnEnd = resolve;
        });
        this.turning = false;
        const turned = performance.now();
        this.openTurn(turned);
        // Time that went to the rest of the program does not count as fruitless.
        lastWork += turned - now;
        hops = 0;
      } else if (hops < HOPS) {
        hops++;
        await null;
      } else if (now - lastWork >= this.windowMillis(now)) {
        if (looked) spentMillis = now - lastWork;
        looked = false;
        this.parkAll();
      } else {
        looked = true;
        if (!this.lookInPlace() && performance.now() - now > PREEMPTED_MICROS / 1000) this.pay(PREEMPTION_COST, now);
        await null;
      }
    }
  }

  /** SUBTLE: an immediate ends the turn even if polling stops before; else a later start in the same turn would renew the budget. */
  private openTurn(now: number): void {
    if (this.turnOpen) return;
    this.turnOpen = true;
    this.turnStart = now;
    setImmediate(this.closeTurn);
  }

  private stepAll(): boolean {
    let found = false;
    const list = this.awakeList;
    for (let i = 0; i < list.length; i++) {
      if (list[i].step()) found = true;
    }
    return found;
  }

  private lookInPlace(): boolean {
    const list = this.awakeList;
    for (let look = 0; look < LOOKS_PER_BURST; look += list.length) {
      for (let i = 0; i < list.length; i++) {
        if (list[i].hasWork()) return true;
      }
    }
    return false;
  }

  private parkAll(): void {
    const list = this.awakeList;
    let kept = 0;
    for (let i = 0; i < list.length; i++) {
      const pollable = list[i];
      if (pollable.tryPark()) pollable.awake = false;
      else list[kept++] = pollable;
    }
    list.length = kept;
  }

  /** The longest window that any awake connection allows. */
  private allowedMillis(): number {
    let micros = 0;
    for (const pollable of this.awakeList) micros = Math.max(micros, pollable.pollMicros);
    return micros / 1000;
  }

  private windowMillis(now: number): number {
    if (this.score <= 0) {
      if (now < this.pausedUntil || this.soonWakes < 2) return 0;
      this.score = 1;
    }
    return Math.min(Math.max(this.expectedMillis * 1.5, WINDOW_MICROS_MIN / 1000), this.allowedMillis());
  }

  /** Work was found by looking, after `waitedMillis`. */
  private noteHit(waitedMillis: number): void {
    this.expectedMillis = Math.max(waitedMillis, this.expectedMillis * 0.98);
    if (this.score < SCORE_MAX && ++this.score === SCORE_MAX) this.penaltyMillis = PENALTY_MILLIS_MIN;
  }

  /** Asleep, work was waited for `waitedMillis`, of which `spentMillis` were spent looking. */
  private noteSleep(waitedMillis: number, spentMillis: number, now: number): void {
    const allowed = this.allowedMillis();
    const soon = waitedMillis < allowed;
    this.soonWakes = soon ? this.soonWakes + 1 : 0;
    const couldGrow = soon && this.expectedMillis < allowed * 0.9;
    if (soon) this.expectedMillis = Math.max(waitedMillis, this.expectedMillis * 0.98);
    if (spentMillis > 0 && !couldGrow) this.pay(MISS_COST, now);
  }

  private pay(cost: number, now: number): void {
    if (this.score <= 0) return;
    this.score -= cost;
    if (this.score > 0) return;
    this.pausedUntil = now + this.penaltyMillis;
    this.penaltyMillis = Math.min(this.penaltyMillis * 2, PENALTY_MILLIS_MAX);
    this.soonWakes = 0;
  }
}

/** POLL-3: made when the module loads. */
export const poller = new Poller();
