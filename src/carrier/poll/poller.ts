/**
 * The one poller of this event loop. It serves every awake connection: shows what was written, drains what arrived,
 * and between the user's continuations looks again for as long as that pays; then it lets the connections park and
 * sleeps in libuv until a doorbell rings or somebody sends.
 *
 * POLL-1  Within one turn of the event loop it runs for at most `BUDGET_MICROS`, counted from the turn's first activity
 *         and not renewed by work found; then the loop turns, so timers, I/O and `process.nextTick` are never starved.
 * POLL-2  It never blocks a continuation: after work it yields several microtasks before it looks in a tight loop, and
 *         that loop is short (about a microsecond).
 * POLL-3  It runs in the async context of this module's load. SUBTLE: were it started from a user's call, the drain,
 *         and with it every resolved promise, would inherit that user's AsyncLocalStorage stores. Code of the user's
 *         that a drain calls runs in a context of its own (CONTEXT-2), or what it leaves there would be the poller's
 *         for ever.
 */
import { useIdleTime } from "../../memory/v8/gc.js";
import type { Addon } from "../../os/addon.js";
import { loadAddon } from "../../os/addon.js";
import { clearTimeout, nowMs, queueMicrotask, setImmediate, setTimeout } from "../../os/timers.js";
import type { IdleStrategy } from "./idle-strategy.js";

export interface Pollable {
  /** Set by the poller. */
  awake: boolean;
  /** Whether the core was given away since there was work. Set by the poller. */
  yielded: boolean;
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

/** Who serves carriers: the poller of this event loop, or whoever blocks the thread meanwhile. */
export interface Driver {
  /**
   * Tells that `pollable` was written to or woken; cheap if it is awake already. @param rung the peer woke it:
   * something is there, or comes soon
   */
  schedule(pollable: Pollable, rung?: boolean): void;
  /** Forgets a connection that is closed. */
  remove(pollable: Pollable): void;
  /** Calls `act` once, about `delayMs` from now. Does not keep the process alive. */
  after(delayMs: number, act: () => void): Delayed;
}

export interface Delayed {
  cancel(): void;
}

/** A turn of the event loop is spent polling for at most this long. */
const BUDGET_MICROS = 200;
/** Settled for good: awaiting it goes on in the next microtask, and makes no garbage but the reaction. */
const NEXT_MICROTASK: Promise<void> = Promise.resolve();
/** Microtasks to yield after work before looking in a tight loop: what a reply takes to get through user code. */
const HOPS = 12;
const LOOKS_PER_BURST = 24;
/** Who was given the core for longer than this was not a peer with an answer. */
const YIELD_MILLIS_MAX = 0.5;
const YIELD_PAUSE_MILLIS_MIN = 1;
const YIELD_PAUSE_MILLIS_MAX = 256;

export class Poller implements Driver {
  private readonly addon: Addon | undefined;
  private readonly awakeList: Pollable[] = [];
  private resume: (() => void) | undefined;
  private turning = false;
  private flushQueued = false;
  private turnStart = 0;
  private turnOpen = false;
  private turnsFrom = 0;
  /** Microtasks that were yielded since there was work. */
  private hops = 0;
  private yieldAgainAt = 0;
  private yieldPauseMillis = YIELD_PAUSE_MILLIS_MIN;
  private readonly closeTurn = () => {
    this.turnOpen = false;
    if (!this.turning) return;
    this.turning = false;
    this.startTurn();
    for (const pollable of this.awakeList) pollable.idleStrategy.away(this.turnStart - this.turnsFrom);
    this.hops = 0;
    this.look();
  };
  private readonly onAwoken = () => {
    if (!this.turnOpen) this.startTurn();
    this.hops = 0;
    this.look();
  };
  /**
   * Serves what is awake, and decides what comes next. Not an async function: those leave more garbage, and take
   * longer, at every hop.
   */
  private readonly look = () => {
    if (this.awakeList.length === 0) return this.sleep();
    const found = this.stepAll();
    if (!found && this.hops < HOPS && !this.onlyPeersCanGoOn()) {
      this.hops++;
      return this.lookSoon();
    }
    if (found) this.hops = 0;
    const now = nowMs();
    if (now - this.turnStart >= BUDGET_MICROS / 1000) return this.letLoopTurn(now);
    if (!found && !this.useIdleTime() && this.parkImpatient(now)) this.lookInPlace();
    this.lookSoon();
  };

  constructor() {
    // Without the addon there is nothing to poll for.
    this.addon = loadAddon().addon;
    this.sleep();
  }

  schedule(pollable: Pollable, rung = false): void {
    if (!pollable.awake) {
      this.activate(pollable, rung);
    } else if (this.turning && !this.flushQueued) {
      // The poller's budget for this turn is spent; what is written meanwhile still goes out in this microtask.
      this.flushQueued = true;
      queueMicrotask(() => {
        this.flushQueued = false;
        for (const awake of this.awakeList) awake.flush();
      });
    }
  }

  private activate(pollable: Pollable, rung: boolean): void {
    const now = nowMs();
    pollable.awake = true;
    pollable.wake();
    pollable.idleStrategy.wake(now);
    if (rung) pollable.idleStrategy.announced(now);
    this.awakeList.push(pollable);
    const resume = this.resume;
    if (resume !== undefined) {
      this.resume = undefined;
      resume();
    }
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
    const awoken = new Promise<void>((resolve) => {
      this.resume = resolve;
    });
    void awoken.then(this.onAwoken);
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

  private lookSoon(): void {
    void NEXT_MICROTASK.then(this.look);
  }

  /** Ends this turn; the next one has a new budget. */
  private letLoopTurn(now: number): void {
    this.turning = true;
    this.openTurn();
    this.turnsFrom = now;
  }

  private startTurn(): void {
    this.turnStart = nowMs();
    if (this.addon === undefined) return;
    const cpu = this.addon.currentCpu();
    for (const pollable of this.awakeList) pollable.runsOn(cpu);
  }

  /**
   * From now on the turn counts: it is over when the event loop has come round. SUBTLE: a turn is opened before the
   * first look in place, and stays open after parking; a start later in the same turn would renew the budget else. A
   * turn in which nothing was looked for in place needs no end: it cost a few microseconds, and an immediate costs
   * more.
   */
  private openTurn(): void {
    if (this.turnOpen) return;
    this.turnOpen = true;
    setImmediate(this.closeTurn);
  }

  private stepAll(): boolean {
    let found = false;
    const list = this.awakeList;
    for (let i = 0; i < list.length; i++) {
      const pollable = list[i];
      if (!pollable.step()) continue;
      found = true;
      pollable.yielded = false;
      pollable.idleStrategy.work(nowMs());
    }
    return found;
  }

  /** Lets the connections sleep that have waited long enough. True if one is left to look for. */
  private parkImpatient(now: number): boolean {
    const list = this.awakeList;
    let kept = 0;
    let looking = false;
    let yielding = false;
    for (let i = 0; i < list.length; i++) {
      const pollable = list[i];
      const sharesCore = pollable.sharesCore();
      if (sharesCore && !pollable.yielded && now >= this.yieldAgainAt) {
        // The peer cannot answer while we run; often it has by the time we run again, and then neither side had to
        // sleep and be woken.
        pollable.yielded = true;
        yielding = true;
      } else if (!sharesCore && pollable.expecting && pollable.idleStrategy.lasts(now)) {
        looking = true;
      } else if (pollable.tryPark()) {
        pollable.awake = false;
        pollable.idleStrategy.sleep(now, pollable.expecting);
        continue;
      }
      list[kept++] = pollable;
    }
    list.length = kept;
    if (yielding) this.yieldCore(now);
    if (looking) this.openTurn();
    return looking && !yielding;
  }

  private yieldCore(now: number): void {
    this.addon?.yieldThread();
    if (nowMs() - now <= YIELD_MILLIS_MAX) {
      this.yieldPauseMillis = Math.max(this.yieldPauseMillis * 0.9, YIELD_PAUSE_MILLIS_MIN);
      return;
    }
    // The core went to somebody who kept it: not tried again for a while, and longer if that goes on.
    this.yieldPauseMillis = Math.min(this.yieldPauseMillis * 4, YIELD_PAUSE_MILLIS_MAX);
    this.yieldAgainAt = now + this.yieldPauseMillis;
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
