import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { test } from "node:test";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { whenIdle } from "../../memory/v8/gc.js";
import { IdleStrategy } from "./idle-strategy.js";
import type { Pollable } from "./poller.js";
import { Poller } from "./poller.js";

/** A connection whose work is what the test says; counts what the poller does with it. */
class FakeConnection implements Pollable {
  awake = false;
  yielded = false;
  idleTurns = 0;
  expecting = true;
  settled = false;
  readonly idleStrategy: IdleStrategy;
  /** Steps that will find work. */
  work = 0;
  steps = 0;
  looks = 0;
  parks = 0;
  wakes = 0;
  flushes = 0;
  onStep: () => void = () => {};

  constructor(maxMicros: number) {
    this.idleStrategy = new IdleStrategy(maxMicros);
  }

  flush(): void {
    this.flushes++;
  }
  step(): boolean {
    this.steps++;
    this.onStep();
    return this.work > 0 && this.work-- > 0;
  }
  hasWork(): boolean {
    this.looks++;
    return this.work > 0;
  }
  tryPark(): boolean {
    this.parks++;
    return this.work === 0;
  }
  wake(): void {
    this.wakes++;
  }
  runsOn(): void {}
  onPeersCore = false;
  sharesCore(): boolean {
    return this.onPeersCore;
  }
}

/** Processor time of this process, in ms: what it does itself counts, and not what else runs on the machine. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Lets the event loop turn until the poller has put the connection to sleep. */
async function asleep(connection: FakeConnection): Promise<void> {
  for (let i = 0; connection.awake; i++) {
    assert.ok(i < 1000, "it never parks");
    await turn();
  }
}

test("a connection that is touched is woken, served and put to sleep again", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(200);
  connection.work = 3;
  poller.schedule(connection);
  assert.equal(connection.awake, true);
  await asleep(connection);
  assert.equal(connection.work, 0);
  assert.deepEqual([connection.wakes, connection.parks], [1, 1]);
});

test("without polling it parks when it has nothing to do, and never looks in place", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(0);
  for (let i = 0; i < 50; i++) {
    connection.work = 1;
    poller.schedule(connection);
    await asleep(connection);
  }
  assert.equal(connection.looks, 0);
  assert.equal(connection.parks, 50);
});

test("asleep it is not looked at", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(1000);
  poller.schedule(connection);
  await asleep(connection);
  const { steps, looks } = connection;
  await sleep(20);
  assert.deepEqual([connection.steps, connection.looks], [steps, looks]);
});

test("a connection that cannot park, because work came meanwhile, is served on", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(0);
  let refusals = 0;
  const park = connection.tryPark.bind(connection);
  connection.tryPark = () => {
    if (refusals++ > 0) return park();
    connection.work = 1;
    return false;
  };
  poller.schedule(connection);
  await asleep(connection);
  assert.equal(connection.work, 0);
  assert.ok(refusals >= 2);
});

test("endless work leaves immediates, timers and nextTick their turns (POLL-1)", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(200);
  connection.work = Infinity;
  poller.schedule(connection);
  const gaps: number[] = [];
  for (let i = 0; i < 50; i++) {
    const start = cpuMs();
    if (i % 3 === 0) await turn();
    else if (i % 3 === 1) await sleep(1);
    else await new Promise<void>((resolve) => setImmediate(() => process.nextTick(resolve)));
    gaps.push(cpuMs() - start);
  }
  poller.remove(connection);
  assert.ok(connection.steps > 1000, `${connection.steps} steps`);
  // The longest but a few: garbage is collected, and code compiled.
  assert.ok(gaps.sort((a, b) => b - a)[5] < 15, `gaps up to ${gaps[0]} ms of work`);
});

test("the budget of a turn counts from its start and is not renewed by work or by another touch", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(1000);
  connection.work = Infinity;
  let inTurn = cpuMs();
  const longest: number[] = [];
  connection.onStep = () => {
    poller.schedule(connection);
  };
  poller.schedule(connection);
  for (let i = 0; i < 100; i++) {
    await turn();
    longest.push(cpuMs() - inTurn);
    inTurn = cpuMs();
  }
  poller.remove(connection);
  // 200 µs of polling, and the turn around it.
  assert.ok(longest.sort((a, b) => a - b)[50] < 1, `the median turn took ${longest[50]} ms of work`);
});

test("a connection that is removed while it is served is not served again", async () => {
  const poller = new Poller();
  const [first, second] = [new FakeConnection(200), new FakeConnection(200)];
  first.work = second.work = Infinity;
  first.onStep = () => poller.remove(first);
  poller.schedule(first);
  poller.schedule(second);
  // Several turns: on a busy machine one step may use up a turn's whole budget.
  for (let turns = 0; turns < 10; turns++) await turn();
  // Before the assertions: what is left in a poller would keep it, and this process, going.
  poller.remove(second);
  assert.equal(first.steps, 1);
  assert.equal(first.awake, false);
  assert.ok(second.steps > 1);
});

test("what is written after the turn's budget is spent is still shown in the same turn", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(200);
  connection.work = Infinity;
  poller.schedule(connection);
  await turn();
  // The budget is spent by now: the poller waits for the loop to come round.
  for (const end = performance.now() + 1; performance.now() < end; ) await Promise.resolve();
  const { flushes } = connection;
  poller.schedule(connection);
  await Promise.resolve();
  await Promise.resolve();
  assert.equal(connection.flushes, flushes + 1);
  poller.remove(connection);
});

test("steps see no AsyncLocalStorage store of whoever touched (POLL-3)", async () => {
  const storage = new AsyncLocalStorage<string>();
  const poller = new Poller();
  const connection = new FakeConnection(200);
  const seen = new Set<string | undefined>();
  connection.onStep = () => seen.add(storage.getStore());
  for (let i = 0; i < 10; i++) {
    connection.work = 2;
    storage.run(`touch ${i}`, () => poller.schedule(connection));
    await asleep(connection);
  }
  assert.deepEqual([...seen], [undefined]);
});

test("on the peer's core, a side that has answered what came goes on to sleep, and one that has not gives its user's code time", async () => {
  const poller = new Poller();
  const stepsOf = async (settled: boolean, onPeersCore: boolean): Promise<number> => {
    const connection = Object.assign(new FakeConnection(0), { work: 1, settled, onPeersCore });
    poller.schedule(connection);
    await asleep(connection);
    assert.equal(connection.work, 0);
    return connection.steps;
  };
  // On a busy machine a turn's budget may pass in one step: so the most of several.
  const mostSteps = async (settled: boolean, onPeersCore: boolean): Promise<number> => {
    let most = 0;
    for (let i = 0; i < 50 && most <= 10; i++) most = Math.max(most, await stepsOf(settled, onPeersCore));
    return most;
  };
  assert.ok((await mostSteps(false, true)) > 10);
  assert.ok((await mostSteps(true, false)) > 10);
  assert.ok((await stepsOf(true, true)) < 10);
});

test("idle time is used while peers work on other cores, before sleeping; not while the peer needs this one", async () => {
  const poller = new Poller();
  const idleUses = async (onPeersCore: boolean): Promise<number[]> => {
    const connection = Object.assign(new FakeConnection(0), { work: 2, onPeersCore });
    const workLeft: number[] = [];
    whenIdle(() => workLeft.push(connection.work));
    poller.schedule(connection);
    await asleep(connection);
    return workLeft;
  };
  assert.deepEqual(await idleUses(true), []);
  assert.deepEqual(await idleUses(false), [0]);
});

/** Runs the loop for some turns that each take longer than one with nothing to run. */
async function busyTurns(turns: number, onTurn: () => void = () => {}): Promise<void> {
  for (let i = 0; i < turns; i++) {
    await turn();
    onTurn();
    for (const end = performance.now() + 0.3; performance.now() < end; );
  }
}

test("while the loop has callbacks of its own nothing is looked for, and work of the same turn finds the connection awake (POLL-5)", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(200);
  connection.work = 1;
  poller.schedule(connection);
  const workAgain = () => {
    connection.work = 1;
    poller.schedule(connection);
  };
  await busyTurns(50, workAgain);
  const { looks, parks } = connection;
  await busyTurns(200, workAgain);
  // Now and then a turn may look short: the clock stands still where the machine does.
  assert.ok(connection.looks - looks < 200, `${connection.looks - looks} looks`);
  assert.equal(connection.parks, parks);
  await asleep(connection);
});

test("of many connections none is looked for, and all sleep when a turn brings nothing", async () => {
  const poller = new Poller();
  const connections = Array.from({ length: 1000 }, () => new FakeConnection(200));
  for (const connection of connections) connection.work = 3;
  for (const connection of connections) poller.schedule(connection);
  for (const connection of connections) await asleep(connection);
  assert.deepEqual([...new Set(connections.map(({ work, looks, parks }) => `${work} ${looks} ${parks}`))], ["0 0 1"]);
  const steps = connections.map((connection) => connection.steps);
  await sleep(20);
  assert.deepEqual(
    connections.map((connection) => connection.steps),
    steps,
  );
});

test("a connection that has no work for many turns sleeps, though others have work", async () => {
  const poller = new Poller();
  const [busy, idle] = [new FakeConnection(0), new FakeConnection(0)];
  busy.work = Infinity;
  poller.schedule(busy);
  poller.schedule(idle);
  await asleep(idle);
  assert.equal(busy.awake, true);
  poller.remove(busy);
});

test("what comes now and then is served without waking, until it comes often (POLL-6)", async () => {
  const poller = new Poller();
  const storage = new AsyncLocalStorage<string>();
  const connection = new FakeConnection(200);
  const stores = new Set<string | undefined>();
  connection.onStep = () => stores.add(storage.getStore());
  for (let i = 0; i < 10; i++) {
    await sleep(3);
    storage.run("a user's", () => poller.wrote(connection));
    connection.work = 1;
    storage.run("a user's", () => poller.rang(connection));
    assert.deepEqual([connection.flushes, connection.steps], [i, i], "nothing is done at once");
    await Promise.resolve();
    await Promise.resolve();
    assert.deepEqual([connection.flushes, connection.steps, connection.parks], [i + 1, i + 1, i + 1]);
  }
  assert.deepEqual([connection.awake, connection.wakes], [false, 0]);
  assert.deepEqual([...stores], [undefined]);
  for (let i = 0; i < 10; i++) poller.wrote(connection);
  assert.equal(connection.awake, true);
  await asleep(connection);
});

test("a connection that is served asleep is woken if there is more to do for it", async () => {
  const poller = new Poller();
  const connection = new FakeConnection(200);
  const served = async (work: number, onStep: () => void): Promise<number> => {
    await sleep(3);
    connection.work = work;
    connection.onStep = onStep;
    const { wakes } = connection;
    poller.rang(connection);
    await turn();
    await asleep(connection);
    assert.equal(connection.work, 0);
    return connection.wakes - wakes;
  };
  assert.equal(await served(1, () => {}), 0);
  assert.equal(await served(1, () => poller.wrote(connection)), 0, "its step shows what it writes");
  assert.equal(await served(0, () => {}), 1, "rung for nothing: there will be something soon");
  assert.equal(await served(2, () => {}), 1, "more than one step takes");
  let isFirst = true;
  const scheduleOnce = () => {
    if (isFirst) poller.schedule(connection);
    isFirst = false;
  };
  assert.equal(await served(1, scheduleOnce), 1, "something else to do");
});
