/**
 * Limits how long iterables are pulled within one turn of the event loop. An iterable that always has its next message
 * ready continues from microtask to microtask. Without a limit, timers and sockets would never be served.
 *
 * TURN-1  Within a turn, all writers together pull for about `BUDGET_MILLIS`, counted from the turn's first pulls. Then
 *         they wait for the next turn.
 */
import { nowMs, setImmediate } from "../../os/timers.js";

const BUDGET_MILLIS = 1;
/** Pulls between two reads of the clock. */
const PULLS_PER_LOOK = 16;

let pulls = 0;
let turnOpen = false;
let turnStart = 0;
let spent = false;
let waiting: (() => void)[] = [];

/** Whether to pull now. If not, `inNextTurn` calls back when there is budget again. */
export function pullBudgetLeft(): boolean {
  if (spent) return false;
  if (++pulls % PULLS_PER_LOOK !== 0) return true;
  const now = nowMs();
  if (!turnOpen) {
    turnOpen = true;
    turnStart = now;
    setImmediate(nextTurn);
  }
  spent = now - turnStart > BUDGET_MILLIS;
  return !spent;
}

/** Calls `goOn` once, in the next turn. */
export function inNextTurn(goOn: () => void): void {
  waiting.push(goOn);
}

function nextTurn(): void {
  turnOpen = false;
  spent = false;
  const woken = waiting;
  waiting = [];
  for (const goOn of woken) goOn();
}
