import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { withRetryability } from "../../carrier/retryability.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import type { ReconnectOptions } from "../types/client.js";
import { Dialer, pauseAfter, reconnectOf } from "./dialer.js";
import { createIsthmusTransport } from "./transport.js";

const HOUR = 3_600_000;

/** A dialer whose attempts end as the test says, and what it did. */
function dialing(options: ReconnectOptions = {}) {
  const attempts: {
    readonly at: number;
    readonly succeed: (connection: string) => void;
    readonly fail: (error: ConnectError) => void;
  }[] = [];
  const states: string[] = [];
  let open = 0;
  let openMax = 0;
  const make = () =>
    new Promise<string>((resolve, reject) => {
      openMax = Math.max(openMax, ++open);
      const end = (act: () => void) => {
        open--;
        act();
      };
      attempts.push({
        at: performance.now(),
        succeed: (connection) => end(() => resolve(connection)),
        fail: (error) => end(() => reject(error)),
      });
    });
  const dialer: Dialer<string> = new Dialer(make, reconnectOf(options), () => {
    if (states.at(-1) !== dialer.state) states.push(dialer.state);
  });
  return { dialer, attempts, states, openMax: () => openMax };
}

const absent = () => new ConnectError("nobody there", Code.Unavailable);
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** "resolved …" or the code and text of the failure; what it is notes how often it was settled. */
function outcomeOf(promise: Promise<string>): Promise<string> {
  return promise.then(
    (connection) => `resolved ${connection}`,
    (error: unknown) => `${Code[(error as ConnectError).code]}: ${(error as ConnectError).rawMessage}`,
  );
}

async function untilAttempt(attempts: readonly unknown[], count: number): Promise<void> {
  for (const end = performance.now() + 60_000; attempts.length < count; await sleep(1))
    assert.ok(performance.now() < end, `${attempts.length} attempts, expected ${count}`);
}

test("pauses grow up to the longest, and vary by a fifth", () => {
  const options = reconnectOf({ initialDelayMs: 100, maxDelayMs: 500 });
  const middle = [1, 2, 3, 4, 5, 50, 5000].map((failures) => Math.round(pauseAfter(failures, options, 0.5)));
  assert.deepEqual(middle, [100, 160, 256, 410, 500, 500, 500]);
  assert.deepEqual([pauseAfter(1, options, 0), pauseAfter(1, options, 1)].map(Math.round), [80, 120]);
  const drawn = Array.from({ length: 200 }, () => pauseAfter(5, options));
  assert.ok(drawn.every((pause) => pause >= 400 && pause <= 600));
  assert.ok(new Set(drawn).size > 100, "clients do not pause in step");
});

test("a pause is never longer than a timer can count", () => {
  assert.equal(pauseAfter(1, reconnectOf({ initialDelayMs: Infinity })), TIMER_MS_MAX);
  assert.equal(pauseAfter(60, reconnectOf({ maxDelayMs: Number.MAX_VALUE }), 1), TIMER_MS_MAX);
});

test("options that make no sense are refused with their name", () => {
  const refused = (reconnect: ReconnectOptions, message: RegExp) =>
    assert.throws(
      () => createIsthmusTransport({ address: "/run/app.sock", reconnect }),
      (error: ConnectError) => error.code === Code.InvalidArgument && message.test(error.message),
    );
  refused({ initialDelayMs: 0 }, /reconnect\.initialDelayMs.*above 0, not 0/);
  refused({ maxDelayMs: NaN }, /reconnect\.maxDelayMs/);
  refused({ giveUpAfterMs: -1 }, /reconnect\.giveUpAfterMs/);
  refused({ giveUpAfterMs: "5s" as never }, /giveUpAfterMs.*not "5s"; did you mean 5000\?/);
  refused({ initialDelayMs: 50, maxDelayMs: 20 }, /maxDelayMs 20 is less than initialDelayMs 50/);
  assert.deepEqual(reconnectOf({ initialDelayMs: 5000 }), {
    initialDelayMs: 5000,
    maxDelayMs: 5000,
    giveUpAfterMs: 30_000,
  });
});

test("DIAL-1: all who wait share one attempt", async () => {
  const { dialer, attempts, openMax } = dialing();
  const outcomes = Array.from({ length: 100 }, (_, i) =>
    outcomeOf(dialer.wait(undefined, undefined, i % 2 === 0 ? undefined : i % 3 === 0)),
  );
  assert.equal(dialer.waiting, 100);
  attempts[0].succeed("a");
  assert.deepEqual(new Set(await Promise.all(outcomes)), new Set(["resolved a"]));
  assert.deepEqual([attempts.length, openMax(), dialer.waiting, dialer.state], [1, 1, 0, "idle"]);
});

test("DIAL-2: attempts are repeated while somebody waits, with pauses that grow", async () => {
  const { dialer, attempts, openMax } = dialing({ initialDelayMs: 20, maxDelayMs: 100 });
  const outcome = outcomeOf(dialer.wait(60_000, undefined, true));
  for (let i = 0; i < 6; i++) {
    await untilAttempt(attempts, i + 1);
    attempts[i].fail(absent());
  }
  await untilAttempt(attempts, 7);
  attempts[6].succeed("at last");
  assert.equal(await outcome, "resolved at last");
  assert.equal(openMax(), 1);
  const pauses = attempts.slice(1).map(({ at }, i) => at - attempts[i].at);
  const least = [16, 25.6, 40.96, 65.5, 80, 80];
  // A timer may fire a moment early.
  pauses.forEach((pause, i) => assert.ok(pause >= least[i] - 2, `pause ${i} of ${pause} ms`));
});

test("DIAL-2: when the last who waited has gone, there are no more attempts", async () => {
  const { dialer, attempts, states } = dialing({ initialDelayMs: 5, maxDelayMs: 5 });
  const leave = new AbortController();
  const outcomes = [
    outcomeOf(dialer.wait(undefined, leave.signal, true)),
    outcomeOf(dialer.wait(undefined, leave.signal, true)),
  ];
  attempts[0].fail(absent());
  await untilAttempt(attempts, 2);
  attempts[1].fail(absent());
  await turn();
  leave.abort(new ConnectError("enough", Code.Aborted));
  assert.deepEqual(await Promise.all(outcomes), ["Aborted: enough", "Aborted: enough"]);
  const made = attempts.length;
  await sleep(50);
  assert.equal(attempts.length, made);
  assert.deepEqual(states, ["connecting", "reconnecting", "idle"]);
});

test("DIAL-2: who does not wait makes an attempt within a pause, and shares what comes of it", async () => {
  const { dialer, attempts } = dialing({ initialDelayMs: HOUR });
  const patient = outcomeOf(dialer.wait(undefined, undefined, true));
  attempts[0].fail(absent());
  await turn();
  const hasty = outcomeOf(dialer.wait(undefined, undefined, false));
  assert.equal(attempts.length, 2);
  attempts[1].fail(absent());
  assert.equal(await hasty, "Unavailable: nobody there");
  assert.deepEqual([dialer.waiting, dialer.state], [1, "reconnecting"]);
  const other = outcomeOf(dialer.wait(undefined, undefined, false));
  attempts[2].succeed("b");
  assert.deepEqual(await Promise.all([patient, other]), ["resolved b", "resolved b"]);
});

test("who says nothing fails with the first attempt, and waits once there has been a connection", async () => {
  const { dialer, attempts } = dialing({ initialDelayMs: 1 });
  const first = outcomeOf(dialer.wait(undefined, undefined, undefined));
  attempts[0].fail(absent());
  assert.equal(await first, "Unavailable: nobody there");
  const second = outcomeOf(dialer.wait(undefined, undefined, true));
  await untilAttempt(attempts, 2);
  attempts[1].succeed("a");
  await second;
  const third = outcomeOf(dialer.wait(undefined, undefined, undefined));
  await untilAttempt(attempts, 3);
  attempts[2].fail(absent());
  await untilAttempt(attempts, 4);
  attempts[3].succeed("b");
  assert.equal(await third, "resolved b");
});

test("a first connection is tried for a few times where servers accept and go away, and no more", async () => {
  const { dialer, attempts } = dialing({ initialDelayMs: 1 });
  const outcome = outcomeOf(dialer.wait(undefined, undefined, undefined));
  for (let i = 0; i < 4; i++) {
    await untilAttempt(attempts, i + 1);
    attempts[i].fail(withRetryability(absent(), "draining"));
  }
  assert.equal(await outcome, "Unavailable: nobody there");
  assert.deepEqual([attempts.length, dialer.waiting], [4, 0]);
});

test("nobody waits where waiting cannot help", async () => {
  for (const error of [
    new ConnectError("no right", Code.PermissionDenied),
    withRetryability(new ConnectError("no socket", Code.Unavailable), "permanent"),
  ]) {
    const { dialer, attempts } = dialing({ initialDelayMs: 1 });
    const outcomes = [true, false, undefined].map((waits) => outcomeOf(dialer.wait(undefined, undefined, waits)));
    attempts[0].fail(error);
    assert.deepEqual(new Set(await Promise.all(outcomes)), new Set([`${Code[error.code]}: ${error.rawMessage}`]));
    assert.deepEqual([attempts.length, dialer.waiting, dialer.state], [1, 0, "idle"]);
  }
});

test("DIAL-4: after a connection that was in vain there is a pause, after one of use there is none", async () => {
  const { dialer, attempts } = dialing({ initialDelayMs: HOUR });
  const wait = () => outcomeOf(dialer.wait(undefined, undefined, undefined));
  const first = wait();
  attempts[0].succeed("a");
  await first;
  dialer.succeeded();
  const second = wait();
  assert.equal(attempts.length, 2, "at once");
  attempts[1].succeed("b");
  await second;
  dialer.failed();
  const third = wait();
  await sleep(20);
  assert.deepEqual([attempts.length, dialer.state], [2, "reconnecting"]);
  dialer.close(new ConnectError("over", Code.Unavailable));
  assert.equal(await third, "Unavailable: over");
});

test("a deadline that passes says why there was no connection, and so does a wait whose time is up", async () => {
  const { dialer, attempts } = dialing({ initialDelayMs: HOUR, giveUpAfterMs: 30 });
  const late = outcomeOf(dialer.wait(20, undefined, true));
  const impatient = outcomeOf(dialer.wait(undefined, undefined, true));
  attempts[0].fail(absent());
  assert.equal(
    await late,
    "DeadlineExceeded: the operation timed out before there was a connection; the last attempt failed: nobody there",
  );
  assert.equal(await impatient, "Unavailable: nobody there (waited 30 ms for a connection)");
  const unheard = outcomeOf(dialer.wait(20, undefined, false));
  assert.equal(
    await unheard,
    "DeadlineExceeded: the operation timed out before there was a connection; the last attempt failed: nobody there",
  );
});

test("after the end everybody is refused, those who wait and those who come", async () => {
  const { dialer, attempts } = dialing();
  const outcome = outcomeOf(dialer.wait(undefined, undefined, true));
  dialer.close(new ConnectError("closed", Code.Unavailable));
  assert.equal(await outcome, "Unavailable: closed");
  assert.equal(await outcomeOf(dialer.wait(undefined, undefined, true)), "Unavailable: closed");
  attempts[0].fail(absent());
  await sleep(30);
  assert.equal(attempts.length, 1);
});

test("DIAL-3: whatever comes first settles who waits, once, and leaves nothing on their signals", async (context) => {
  const seed = Number(process.env["ISTHMUS_SEED"] ?? Math.floor(Math.random() * 2 ** 32)) >>> 0;
  context.diagnostic(`seed ${seed} (ISTHMUS_SEED=${seed} repeats it)`);
  let state = seed;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const { dialer, attempts, openMax } = dialing({ initialDelayMs: 1, maxDelayMs: 4, giveUpAfterMs: 40 });
  const signals: AbortSignal[] = [];
  const settled: number[] = [];
  let decided = 0;
  for (let step = 0; step < 400; step++) {
    const i = settled.push(0) - 1;
    const controller = new AbortController();
    signals.push(controller.signal);
    if (random() < 0.3) setTimeout(() => controller.abort(), random() * 15);
    const count = () => settled[i]++;
    dialer
      .wait(
        random() < 0.5 ? undefined : 1 + random() * 15,
        controller.signal,
        [true, false, undefined][Math.floor(random() * 3)],
      )
      .then(count, count);
    if (random() < 0.4) await sleep(random() * 4);
    for (; decided < attempts.length && random() < 0.7; decided++) {
      if (random() < 0.5) attempts[decided].succeed("c");
      else attempts[decided].fail(random() < 0.2 ? new ConnectError("no right", Code.PermissionDenied) : absent());
    }
  }
  dialer.close(new ConnectError("over", Code.Unavailable));
  await sleep(1);
  assert.ok(
    settled.every((count) => count === 1),
    "each once",
  );
  assert.deepEqual([dialer.waiting, openMax()], [0, 1]);
  for (const signal of signals) assert.equal(getEventListeners(signal, "abort").length, 0);
});
