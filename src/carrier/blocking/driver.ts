/**
 * Serves one shared-memory connection on a thread that blocks. The poller does this from microtasks for all connections
 * of an event loop; here it is done in place for one, until a call is settled. Meanwhile the thread runs no microtasks,
 * timers or finalisers. So the work that the carrier asks for later is done here.
 *
 * BLOCKING-1  Between calls the connection looks awake to the peer, so the peer does not ring. Nothing is missed: `serve`
 *             looks at everything before it sleeps, and sleeps only after `tryPark` (BELL-1).
 * BLOCKING-2  After waking, the line is read first, then "awake" is stored, then the carrier steps (BELL-3).
 * BLOCKING-3  `serve` looks at the clock in each round, whatever the peer sends.
 */
import type { Addon } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";
import type { BlockingSocket } from "./socket.js";
import { HUNG_UP } from "./socket.js";
import { closedBy } from "../carrier.js";
import type { Delayed, Driver, Pollable } from "../poll/poller.js";
import type { ShmCarrier } from "../shm/shm.js";

/** What the thread waits for. */
export interface Awaited {
  readonly settled: boolean;
}

interface Due extends Delayed {
  readonly at: number;
  readonly act: () => void;
}

/** Looks for work between two looks at the clock: about a microsecond, in which an awake peer answers a small call. */
const LOOKS_PER_CLOCK = 64;

/** Enough steps to empty a ring. A peer that sends without end does not keep the next call waiting. */
const STEPS_MAX = 1024;

export class BlockingDriver implements Driver {
  private readonly addon: Addon;
  private readonly line: BlockingSocket;
  private carrier!: ShmCarrier;
  private readonly due = new Set<Due>();
  private requestPosition = 0;
  /** The connection ended before the peer had taken the request, so no server has seen it. */
  isUntaken = false;

  constructor(addon: Addon, line: BlockingSocket) {
    this.addon = addon;
    this.line = line;
  }

  /** Called once, before the first frame. */
  drive(carrier: ShmCarrier): void {
    this.carrier = carrier;
    // So that the carrier does not use the line.
    carrier.awake = true;
    if (carrier.blocks !== undefined) carrier.blocks.isBlocking = true;
  }

  // Called by the carrier.

  // `serve` looks at everything anyway.
  schedule(): void {}
  wrote(): void {}
  rang(): void {}

  remove(pollable: Pollable): void {
    pollable.awake = false;
    this.due.clear();
  }

  after(delayMs: number, act: () => void): Delayed {
    const entry: Due = { at: nowMs() + delayMs, act, cancel: () => this.due.delete(entry) };
    this.due.add(entry);
    return entry;
  }

  // Called by the client.

  /** Takes frames that arrived between calls (late ones, or about the connection itself), and does what is due. */
  catchUp(): void {
    const { carrier } = this;
    for (let steps = 0; steps < STEPS_MAX && carrier.hasWork(); steps++) carrier.step();
    if (this.due.size > 0) this.runDue(nowMs());
  }

  /** A request is written to the ring next. */
  beginRequest(): void {
    this.requestPosition = this.carrier.position;
    this.isUntaken = false;
  }

  /** Serves the connection until `awaited` is settled or the connection is over. False: `deadline` has passed. */
  serve(awaited: Awaited, deadline: number): boolean {
    const { carrier } = this;
    while (!awaited.settled && !carrier.closed) {
      if (carrier.step() || carrier.nextTurn() || this.look(deadline)) {
        // BLOCKING-3
        if (isPast(deadline) && !awaited.settled) return false;
        continue;
      }
      const now = nowMs();
      if (now >= deadline) return false;
      if (this.due.size > 0) this.runDue(now);
      try {
        this.sleep(now, deadline);
      } catch (error) {
        carrier.close(closedBy(error));
      }
    }
    return true;
  }

  /** Looks for work in place, for as long as that pays. True: there is work. */
  private look(deadline: number): boolean {
    const { carrier } = this;
    const { idleStrategy } = carrier;
    if (carrier.sharesCore()) return this.giveWay();
    for (let looks = 1; ; looks++) {
      if (carrier.hasWork()) {
        if (looks > LOOKS_PER_CLOCK) idleStrategy.work(nowMs());
        return true;
      }
      if (looks % LOOKS_PER_CLOCK !== 0) continue;
      const now = nowMs();
      if (looks === LOOKS_PER_CLOCK) {
        idleStrategy.work(now);
        carrier.runsOn(this.addon.currentCpu());
        if (carrier.sharesCore()) return this.giveWay();
      }
      if (now >= deadline || !idleStrategy.lasts(now)) return false;
    }
  }

  /** Yields the core to the peer, which cannot answer while this thread runs on it. True: there is work. */
  private giveWay(): boolean {
    this.addon.yieldThread();
    return this.carrier.hasWork();
  }

  private sleep(now: number, deadline: number): void {
    const { carrier } = this;
    carrier.runsOn(this.addon.currentCpu());
    if (!carrier.tryPark()) return;
    carrier.idleStrategy.sleep(now, true);
    let until = deadline;
    for (const { at } of this.due) until = Math.min(until, at);
    const found = this.line.wait(until);
    // SUBTLE: asked while the rings are still mapped. The peer has hung up, so it takes no more frames.
    if ((found & HUNG_UP) !== 0) this.isUntaken = !carrier.wasTaken(this.requestPosition);
    this.line.deliver(found);
    // BLOCKING-2
    carrier.wake();
    carrier.idleStrategy.wake(nowMs());
  }

  private runDue(now: number): void {
    for (const entry of [...this.due]) if (entry.at <= now && this.due.delete(entry)) entry.act();
  }
}

function isPast(deadline: number): boolean {
  return deadline !== Infinity && nowMs() >= deadline;
}
