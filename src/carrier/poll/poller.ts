/**
 * The one poller of this event loop. It serves every awake connection: shows what was written, drains what arrived, and
 * puts to sleep what has nothing to do. Decision 0015 has the reasons.
 *
 *   asleep       in libuv, until a doorbell rings or somebody sends; work that comes now and then is served asleep
 *   by the turn  awake: stepped once at the end of each turn of the event loop
 *   looking      awake, and looked for in microtasks, while the event loop has nothing else to run
 *
 * POLL-1  Within one turn of the event loop the poller looks for at most `BUDGET_MICROS`, counted from the turn's first
 *         activity and not renewed by work found. Then the loop turns, so that timers, I/O and `process.nextTick` are
 *         never starved.
 * POLL-2  The poller never blocks a continuation: after work it yields several microtasks before it looks in a tight
 *         loop, and that loop is short (about a microsecond).
 * POLL-3  The poller runs in the async context of this module's load. SUBTLE: if it were started from a user's call,
 *         the drain, and with it every resolved promise, would inherit that user's AsyncLocalStorage stores. Code of
 *         the user's that a drain calls runs in a context of its own (CONTEXT-2), or what it leaves there would stay
 *         the poller's for ever.
 * POLL-4  While anything is awake, a turn is open or `look` is queued. A turn that brings nothing puts everything to
 *         sleep that is not looked for.
 * POLL-5  Nothing is looked for while the loop has callbacks of its own: those would wait for the look to end.
 * POLL-6  A connection that is served asleep has a sleep word that was stored after its last step, and looked again
 *         after that (`tryPark`). What it sends is shown without a new word; whatever else it comes to wait for wakes it
 *         (`schedule`).
 */
import { isIdleTimeWanted, useIdleTime } from "../../memory/v8/gc.js";
import type { Addon } from "../../os/addon.js";
import { loadAddon } from "../../os/addon.js";
import { clearTimeout, nowMs, setImmediate, setTimeout } from "../../os/timers.js";
import { CoreYield } from "./core-yield.js";
import type { IdleStrategy } from "./idle-strategy.js";
import { QuietTurns } from "./quiet-turns.js";

export interface Pollable {
  /** Set by the poller. */
  awake: boolean;
  /** Whether the core was given away since there was work. Set by the poller. */
  yielded: boolean;
  /** Turns since there was work. Set by the poller. */
  idleTurns: number;
  readonly idleStrategy: IdleStrategy;
  /** Whether anything is waited for: a client with no call open waits for nothing, a server always for requests. */
  readonly expecting: boolean;
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
  /** Publishes which CPU this side runs on. */
  runsOn(cpu: number): void;
  /** Whether the peer ran last on the CPU that this side runs on. */
  sharesCore(): boolean;
  /** Whether as much was sent as came: probably nobody here is at an answer. */
  readonly settled: boolean;
}

/** Steps carriers: the poller of this event loop or, during a blocking call, the thread that waits in it. */
export interface Driver {
  /** There is something to do for `pollable`. Cheap if it is awake already. */
  schedule(pollable: Pollable): void;
  /** Frames were written to `pollable`, and are to be shown soon. Cheap if it is awake already. */
  wrote(pollable: Pollable): void;
  /** The peer woke `pollable`: something is there, or comes soon. */
  rang(pollable: Pollable): void;
  /** Forgets a connection that is closed. */
  remove(pollable: Pollable): void;
  /** Calls `act` once, about `delayMs` from now. Does not keep the process alive. */
  after(delayMs: number, act: () => void): Delayed;
}

export interface Delayed {
  cancel(): void;
}

/** A turn of the event loop is spent looking for at most this long. */
const BUDGET_MICROS = 200;
/** Settled for good: awaiting it goes on in the next microtask, and makes no garbage but the reaction. */
const NEXT_MICROTASK: Promise<void> = Promise.resolve();
/** Microtasks to yield after work before looking in a tight loop: what a reply takes to get through user code. */
const HOPS = 12;
const LOOKS_PER_BURST = 24;
/** With more connections awake than this, none is looked for: looking round them all would take too long. */
const LOOKED_FOR_MAX = 8;
/** Work that follows on a sleep of at least this comes so rarely that waiting for the turn's end costs more. */
const LONG_SLEEP_MILLIS = 0.2;
/** Shorter sleeps in a row before the turn's end is waited for. */
const SHORT_SLEEPS_MIN = 4;
/** Turns without work after which a connection is put to sleep although others have work. */
const IDLE_TURNS_MAX = 32;

export class Poller implements Driver {
  private readonly addon: Addon | undefined;
  private readonly awakeList: Pollable[] = [];
  /** Written to since the last step, and not flushed yet: the first `writtenCount`. */
  private readonly written: (Pollable | undefined)[] = [];
  private writtenCount = 0;
  /** Starts `look` in a microtask, in the context of POLL-3. Undefined unless everything is asleep. */
  private resume: (() => void) | undefined;
  /** Sleeping connections that were rung, to be served asleep. */
  private readonly rung: Pollable[] = [];
  /** Starts `serveRung` in a microtask, in the context of POLL-3. */
  private resumeRung: () => void = () => {};
  /** What `serveRung` steps just now, and whether there is more to do for it. */
  private serving: Pollable | undefined;
  private servesAgain = false;
  /** `look` is queued or runs, and steps everything. */
  private looking = false;
  /** `look` is queued only to let continuations run; it does not step any more in this turn. */
  private spent = false;
  /** Microtasks that were yielded since there was work. */
  private hops = 0;
  private turnOpen = false;
  private turnStart = 0;
  /** When the poller, and what it set off, was done with the turn. */
  private turnEnd = 0;
  /** Whether the loop has come round since the last turn's end. */
  private cameRound = false;
  /** Whether there was work since the last turn's end. */
  private brought = false;
  private readonly quietTurns = new QuietTurns();
  /** When everything went to sleep. */
  private sleptFrom = 0;
  /** Sleeps in a row that were short. */
  private shortSleeps = 0;
  private readonly coreYield: CoreYield;
  private readonly flushWritten = () => {
    const { written, writtenCount } = this;
    this.writtenCount = 0;
    for (let i = 0; i < writtenCount; i++) {
      const pollable = written[i];
      // The array keeps its memory, but nothing that it lists.
      written[i] = undefined;
      pollable?.flush();
    }
  };
  private readonly serveRung = () => {
    this.expectRings();
    for (const pollable of this.rung.splice(0)) {
      if (pollable.awake) continue;
      this.serving = pollable;
      this.servesAgain = false;
      const found = pollable.step();
      this.serving = undefined;
      if (!found || this.servesAgain || isIdleTimeWanted() || !pollable.tryPark())
        this.activate(pollable, !found, nowMs());
    }
  };
  private readonly onTurn = () => {
    this.turnOpen = false;
    if (this.awakeList.length === 0) return this.sleep();
    const now = nowMs();
    const gapMs = now - this.turnEnd;
    for (const pollable of this.awakeList) pollable.idleStrategy.away(gapMs);
    this.quietTurns.judge(now, gapMs);
    this.startTurn(now);
    this.cameRound = true;
    this.beginLooking();
  };
  private readonly onAwoken = () => {
    const now = nowMs();
    this.shortSleeps = now - this.sleptFrom < LONG_SLEEP_MILLIS ? this.shortSleeps + 1 : 0;
    if (!this.turnOpen) this.startTurn(now);
    this.beginLooking();
  };
  /**
   * Serves what is awake, and decides what comes next. Not an async function: those leave more garbage, and take
   * longer, at every hop.
   */
  private readonly look = () => {
    if (this.awakeList.length === 0) return this.endTurn(this.turnStart);
    if (this.spent) return this.hops++ < HOPS ? this.lookSoon() : this.endTurn(nowMs());
    const foundAt = this.stepAll();
    const found = foundAt >= 0;
    const isQuiet = this.quietTurns.isQuiet && this.awakeList.length <= LOOKED_FOR_MAX;
    if (found) {
      this.brought = true;
      this.hops = 0;
    } else if (isQuiet && this.hops < HOPS && !this.onlyPeersCanGoOn()) {
      this.hops++;
      return this.lookSoon();
    }
    const now = found ? foundAt : nowMs();
    const isOver = now - this.turnStart >= BUDGET_MICROS / 1000;
    if (found) {
      if (!isQuiet || isOver) this.leaveRestToContinuations();
    } else if (isOver || !this.waitOn(now, isQuiet)) {
      return this.endTurn(now);
    }
    this.lookSoon();
  };

  constructor() {
    // Without the addon there is nothing to poll for.
    this.addon = loadAddon().addon;
    this.coreYield = new CoreYield(this.addon);
    this.sleep();
    this.expectRings();
  }

  schedule(pollable: Pollable): void {
    if (pollable === this.serving) this.servesAgain = true;
    else if (!pollable.awake) this.activate(pollable, false, nowMs());
    this.flushSoon(pollable);
  }

  wrote(pollable: Pollable): void {
    if (!pollable.awake) {
      // Its step shows what it writes.
      if (pollable === this.serving) return;
      const now = nowMs();
      if (this.servesAsleep(pollable, now)) pollable.idleStrategy.sparseWork(now);
      else this.activate(pollable, false, now);
    }
    this.flushSoon(pollable);
  }

  rang(pollable: Pollable): void {
    if (pollable.awake) return this.flushSoon(pollable);
    const now = nowMs();
    if (!this.servesAsleep(pollable, now)) return this.activate(pollable, true, now);
    pollable.idleStrategy.sparseWork(now);
    if (this.rung.push(pollable) === 1) this.resumeRung();
  }

  /** What is written leaves in this microtask; what arrived waits for the end of the turn. */
  private flushSoon(pollable: Pollable): void {
    if (this.looking) return;
    if (this.writtenCount === 0) void NEXT_MICROTASK.then(this.flushWritten);
    else if (this.written[this.writtenCount - 1] === pollable) return;
    this.written[this.writtenCount++] = pollable;
  }

  /** Whether a sleeping connection is served without waking it. */
  private servesAsleep(pollable: Pollable, now: number): boolean {
    return this.resume !== undefined && pollable.idleStrategy.isSparse(now);
  }

  private expectRings(): void {
    const rung = new Promise<void>((resolve) => {
      this.resumeRung = resolve;
    });
    void rung.then(this.serveRung);
  }

  private activate(pollable: Pollable, rung: boolean, now: number): void {
    pollable.awake = true;
    pollable.idleTurns = 0;
    pollable.wake();
    pollable.idleStrategy.wake(now);
    if (rung) pollable.idleStrategy.announced(now);
    this.awakeList.push(pollable);
    const { resume } = this;
    if (resume === undefined) return;
    this.resume = undefined;
    this.looking = true;
    resume();
  }

  remove(pollable: Pollable): void {
    const at = this.awakeList.indexOf(pollable);
    if (at >= 0) this.awakeList.splice(at, 1);
    pollable.awake = false;
  }

  after(delayMs: number, act: () => void): Delayed {
    const timer = setTimeout(act, delayMs).unref();
    return { cancel: () => clearTimeout(timer) };
  }

  /** Until something is awake. */
  private sleep(): void {
    if (this.resume !== undefined) return;
    const awoken = new Promise<void>((resolve) => {
      this.resume = resolve;
    });
    void awoken.then(this.onAwoken);
  }

  private beginLooking(): void {
    this.looking = true;
    this.spent = false;
    this.hops = 0;
    this.look();
  }

  private lookSoon(): void {
    void NEXT_MICROTASK.then(this.look);
  }

  /** Nothing more is stepped in this turn; the turn ends when the code that was given work has run. */
  private leaveRestToContinuations(): void {
    for (const pollable of this.awakeList) pollable.flush();
    this.spent = true;
    this.looking = false;
    this.hops = 0;
  }

  private startTurn(now: number): void {
    this.turnStart = now;
    if (this.addon === undefined) return;
    const cpu = this.addon.currentCpu();
    for (const pollable of this.awakeList) pollable.runsOn(cpu);
  }

  /** The loop comes round, if anything is awake; then there is a new budget. */
  private endTurn(now: number): void {
    this.looking = false;
    this.spent = false;
    this.turnEnd = now;
    if (this.cameRound) {
      if (this.brought) this.parkIdle(now);
      this.cameRound = false;
      this.brought = false;
    }
    if (this.awakeList.length === 0) {
      this.sleptFrom = now;
      return this.sleep();
    }
    if (this.turnOpen) return;
    this.turnOpen = true;
    setImmediate(this.onTurn);
  }

  /** Steps everything that is awake. Returns the time if there was work; otherwise −1, without looking at the clock. */
  private stepAll(): number {
    let now = -1;
    const list = this.awakeList;
    for (let i = 0; i < list.length; i++) {
      const pollable = list[i];
      if (!pollable.step()) continue;
      if (now < 0) now = nowMs();
      pollable.yielded = false;
      pollable.idleTurns = 0;
      pollable.idleStrategy.work(now);
    }
    return now >= 0 && list.length > 1 ? nowMs() : now;
  }

  /** Nothing was found: looks in place, gives the core away, or lets connections sleep. False: the turn is over. */
  private waitOn(now: number, isQuiet: boolean): boolean {
    const turnBroughtNothing = this.cameRound && !this.brought;
    if ((isQuiet || turnBroughtNothing) && this.useIdleTime()) return true;
    if (isQuiet && this.isLookedFor(now)) {
      this.quietTurns.looks();
      this.lookInPlace();
      return true;
    }
    if (!turnBroughtNothing && !(isQuiet && (this.onlyPeersCanGoOn() || this.shortSleeps < SHORT_SLEEPS_MIN)))
      return false;
    return this.parkAll(now, isQuiet);
  }

  /** Whether work for any connection is worth looking for. */
  private isLookedFor(now: number): boolean {
    if (this.quietTurns.isPaused(now)) return false;
    const list = this.awakeList;
    for (let i = 0; i < list.length; i++) {
      if (list[i].expecting && list[i].idleStrategy.lasts(now) && !list[i].sharesCore()) return true;
    }
    return false;
  }

  /** Looks at more microtasks would only keep the core from those who have to answer. */
  private onlyPeersCanGoOn(): boolean {
    const list = this.awakeList;
    for (let i = 0; i < list.length; i++) {
      if (!list[i].settled || !list[i].sharesCore()) return false;
    }
    return true;
  }

  /** While peers work on other cores. True if there was something to do. */
  private useIdleTime(): boolean {
    const list = this.awakeList;
    for (let i = 0; i < list.length; i++) {
      if (list[i].sharesCore()) return false;
    }
    return useIdleTime();
  }

  /** Lets all connections sleep. True if the core was given away instead, so that it pays to look again. */
  private parkAll(now: number, isQuiet: boolean): boolean {
    const list = this.awakeList;
    let kept = 0;
    let yielding = false;
    for (let i = 0; i < list.length; i++) {
      const pollable = list[i];
      if (isQuiet && !pollable.yielded && this.coreYield.isDue(now) && pollable.sharesCore()) {
        // The peer cannot answer while we run; often it has by the time we run again, and then neither side had to
        // sleep and be woken.
        pollable.yielded = true;
        yielding = true;
      } else if (this.park(pollable, now)) {
        continue;
      }
      list[kept++] = pollable;
    }
    if (kept < list.length) list.length = kept;
    if (yielding) this.coreYield.yield(now);
    return yielding;
  }

  /** Lets connections sleep that have had no work for long while others have. */
  private parkIdle(now: number): void {
    const list = this.awakeList;
    if (list.length === 1) return;
    let kept = 0;
    for (let i = 0; i < list.length; i++) {
      const pollable = list[i];
      if (++pollable.idleTurns > IDLE_TURNS_MAX && this.park(pollable, now)) continue;
      list[kept++] = pollable;
    }
    if (kept < list.length) list.length = kept;
  }

  private park(pollable: Pollable, now: number): boolean {
    if (!pollable.tryPark()) return false;
    pollable.awake = false;
    pollable.idleStrategy.sleep(now, pollable.expecting);
    return true;
  }

  private lookInPlace(): void {
    const list = this.awakeList;
    for (let look = 0; look < LOOKS_PER_BURST; look += list.length) {
      for (let i = 0; i < list.length; i++) {
        if (list[i].hasWork()) return;
      }
    }
  }
}

/** POLL-3: made when the module loads. */
export const poller = new Poller();
