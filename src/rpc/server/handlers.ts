/**
 * The handlers that run for one connection.
 *
 * HANDLER-1  A place belongs to a call until its gate and its handler have settled. A reset ends the call, but not the
 *            handler, which may ignore its signal. So no client makes more handlers run at once than `maxStreams`.
 *            Calls beyond that wait, undecoded, and start in order of arrival. A call that waits has a slot, so the
 *            number of waiting calls is bounded too.
 */
import { inOwnContext } from "../../carrier/poll/root-context.js";
import { nowMs, setImmediate } from "../../os/timers.js";

/** A call that waits for a place. */
export interface WaitingCall {
  /** The call has a place now. */
  onPlace(): void;
}

const start = (call: WaitingCall): void => call.onPlace();

export class Handlers {
  /** Number of places in use. */
  running = 0;
  private readonly max: number;
  private readonly waiting = new Set<WaitingCall>();
  private isDue = false;

  constructor(max: number) {
    this.max = max;
  }

  /** Number of calls that wait for a place. */
  get waitingCalls(): number {
    return this.waiting.size;
  }

  /** @returns whether the call has a place; otherwise `onPlace` follows in a later turn, unless `forget` is called */
  enter(call: WaitingCall): boolean {
    if (this.running >= this.max || this.waiting.size > 0) {
      this.waiting.add(call);
      return false;
    }
    this.running++;
    return true;
  }

  /** A place is free again. */
  leave(): void {
    this.running--;
    if (this.waiting.size === 0 || this.isDue) return;
    this.isDue = true;
    // SUBTLE: not at once. A handler that settles while it is called would start the next one from within, and so on.
    setImmediate(this.startWaiting);
  }

  /** The call is over and needs no place any more. */
  forget(call: WaitingCall): void {
    if (this.waiting.size > 0) this.waiting.delete(call);
  }

  private readonly startWaiting = (): void => {
    this.isDue = false;
    let free = this.max - this.running;
    for (const call of this.waiting) {
      if (free-- <= 0) return;
      this.waiting.delete(call);
      this.running++;
      inOwnContext(start, call);
    }
  };
}

/** Bounds how often a client may do something: at most `burst` times at once, and `perSecond` times in the long run. */
export class Rate {
  private readonly perSecond: number;
  private readonly burst: number;
  private left: number;
  private last = nowMs();

  constructor(perSecond: number, burst: number) {
    this.perSecond = perSecond;
    this.burst = burst;
    this.left = burst;
  }

  /** @returns whether it may be done once more */
  take(): boolean {
    if (this.left < 1) {
      const now = nowMs();
      this.left = Math.min(this.burst, this.left + ((now - this.last) * this.perSecond) / 1000);
      this.last = now;
      if (this.left < 1) return false;
    }
    this.left--;
    return true;
  }
}
