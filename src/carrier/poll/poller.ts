/**
 * The one poller of this event loop. It serves every awake connection: publishes what was written and drains what
 * arrived. Between the user's continuations it looks again for as long as that pays. Then it lets the connections park,
 * and the loop sleeps in libuv until a doorbell rings or something is sent.
 *
 * POLL-1  Within one turn of the event loop it runs for at most `BUDGET_MICROS`, counted from the turn's first activity
 *         and not renewed by work found. Then the loop turns, so timers, I/O and `process.nextTick` are never starved.
 * POLL-2  It never blocks a continuation. After work it yields several microtasks before it looks in a tight loop, and
 *         that loop is short (about a microsecond).
 * POLL-3  It runs in the async context of this module's load. SUBTLE: if it were started from a user's call, the drain,
 *         and with it every resolved promise, would inherit that user's AsyncLocalStorage stores. User code that a
 *         drain calls runs in a context of its own (CONTEXT-2). Otherwise the stores that it enters would stay in the
 *         poller for ever.
 */
import { useIdleTime } from "../../memory/v8/gc.js";
import type { Addon } from "../../os/addon.js";
import { loadAddon } from "../../os/addon.js";
import { clearTimeout, nowMs, queueMicrotask, setImmediate, setTimeout } from "../../os/timers.js";
import type { IdleStrategy } from "./idle-strategy.js";

export interface Pollable {
  /** Set by the poller. */
  awake: boolean;
  /** Whether the core was yielded since there was work. Set by the poller. */
  yielded: boolean;
  readonly idleStrategy: IdleStrategy;
  /** Whether it waits for anything: a client without open calls waits for nothing, a server always for requests. */
  readonly expecting: boolean;
  /** Publishes what was written. Runs no user code. */
  flush(): void;
  /** Publishes what was written and drains what arrived. True if there was anything. Must not throw. */
  step(): boolean;
  /** Whether `step` would find something that arrived. Cheap. */
  hasWork(): boolean;
  /** Publishes "asleep" and looks again. False: it stays awake, because there is work. */
  tryPark(): boolean;
  /** Publishes "awake". */
  wake(): void;
  /** Publishes which CPU this side runs on. */
  runsOn(cpu: number): void;
  /** Whether the peer last ran on the CPU that this side runs on. */
  sharesCore(): boolean;
  /** Whether as many frames were sent as came: probably no handler here works on an answer. */
  readonly settled: boolean;
}

/** Serves carriers: the poller of this event loop, or a thread that blocks until a call is settled. */
export interface Driver {
  /**
   * `pollable` was written to or woken. Cheap if it is awake already.
   * @param rung the peer woke it: something has arrived, or will soon
   */
  schedule(pollable: Pollable, rung?: boolean): void;
  /** Removes a connection that is closed. */
  remove(pollable: Pollable): void;
  /** Calls `act` once, about `delayMs` from now. Does not keep the process alive. */
  after(delayMs: number, act: () => void): Delayed;
}

export interface Delayed {
  cancel(): void;
}

/** How long a turn of the event loop may be spent polling. */
const BUDGET_MICROS = 200;
/** Already resolved: continuing in the next microtask allocates nothing but the reaction. */
const NEXT_MICROTASK: Promise<void> = Promise.resolve();
/** Microtasks to yield after work before looking in a tight loop: as many as a reply needs to pass through user code. */
const HOPS = 12;
const LOOKS_PER_BURST = 24;
/** If the core was yielded for longer than this, it did not go to a peer with an answer. */
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
  /** Microtasks yielded since there was work. */
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
   * Serves the awake connections, and decides what comes next. Not an async function, because those allocate more and
   * take longer at every hop.
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
      // The poller's budget for this turn is spent, but frames that are written meanwhile still leave in a microtask.
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

  /** Waits until a connection is awake. */
  private sleep(): void {
    const awoken = new Promise<void>((resolve) => {
      this.resume = resolve;
    });
    void awoken.then(this.onAwoken);
  }

  /** Whether further microtasks would only keep the core from the peers, which have to answer. */
  private onlyPeersCanGoOn(): boolean {
    const list = this.awakeList;
    for (let i = 0; i < list.length; i++) {
      if (!list[i].settled || !list[i].sharesCore()) return false;
    }
    return true;
  }

  /** Uses the time in which peers work on other cores. True if there was something to do. */
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
   * From now on the turn counts; it ends when the event loop has turned. SUBTLE: a turn is opened before the first look
   * in place, and stays open after parking. Otherwise a start later in the same turn would renew the budget. A turn
   * without looks in place needs no end: it cost a few microseconds, and an immediate costs more.
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

  /** Parks the connections that have waited long enough. True if another one is worth looking for in place. */
  private parkImpatient(now: number): boolean {
    const list = this.awakeList;
    let kept = 0;
    let looking = false;
    let yielding = false;
    for (let i = 0; i < list.length; i++) {
      const pollable = list[i];
      const sharesCore = pollable.sharesCore();
      if (sharesCore && !pollable.yielded && now >= this.yieldAgainAt) {
        // The peer cannot answer while we run. Often it has answered by the time we run again, and then neither side had
        // to sleep and be woken.
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
    // Another process took the core and kept it. Do not try again for a while, and longer each time.
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
