import assert from "node:assert/strict";
import test from "node:test";
import { AWAIT, Bell, Sleeper } from "./doorbell.js";
import { WORD } from "./layout.js";
import { randomOf } from "./random.test.util.js";

function makePair() {
  const shared = new Int32Array(WORD.sleep + 1);
  return { sleeper: new Sleeper(shared), bell: new Bell(shared), shared };
}

/** Sets the sleeper's sleep number as if it had slept as many times as `word` says. */
function setWord(sleeper: Sleeper, word: number): void {
  (sleeper as unknown as { word: number }).word = word | 0;
}

test("nobody is rung before the first sleep", () => {
  const { bell, sleeper } = makePair();
  assert.equal(bell.mustRing(AWAIT.frames), false);
  sleeper.wake();
  assert.equal(bell.mustRing(AWAIT.frames), false);
});

test("BELL-2: a sleep is rung once, whatever happens in it", () => {
  const { bell, sleeper } = makePair();
  sleeper.park(AWAIT.frames | AWAIT.space);
  assert.equal(bell.mustRing(AWAIT.frames), true);
  assert.equal(bell.mustRing(AWAIT.frames), false);
  assert.equal(bell.mustRing(AWAIT.space), false);
  assert.equal(sleeper.sleeps, 1);
});

test("BELL-2: the next sleep is rung again, though the ringer never saw the sleeper awake", () => {
  const { bell, sleeper } = makePair();
  for (let sleep = 0; sleep < 100; sleep++) {
    sleeper.park(AWAIT.frames);
    assert.equal(bell.mustRing(AWAIT.frames), true);
    sleeper.wake();
  }
  assert.equal(sleeper.sleeps, 100);
});

test("a sleeper is rung only for what it awaits", () => {
  for (const awaiting of [1, 2, 3, 4, 5, 6, 7]) {
    for (const event of Object.values(AWAIT)) {
      const { bell, sleeper } = makePair();
      sleeper.park(awaiting);
      assert.equal(bell.mustRing(event), (awaiting & event) !== 0);
    }
  }
});

test("an event that is not awaited does not use up the ring", () => {
  const { bell, sleeper } = makePair();
  sleeper.park(AWAIT.space);
  assert.equal(bell.mustRing(AWAIT.frames), false);
  assert.equal(bell.mustRing(AWAIT.space), true);
});

test("nobody who is awake is rung", () => {
  const { bell, sleeper } = makePair();
  sleeper.park(AWAIT.frames);
  sleeper.wake();
  assert.equal(sleeper.asleep, false);
  assert.equal(bell.mustRing(AWAIT.frames), false);
});

test("waking twice stores one word", () => {
  const { sleeper, shared } = makePair();
  sleeper.park(AWAIT.frames);
  sleeper.wake();
  const word = shared[WORD.sleep];
  sleeper.wake();
  assert.equal(shared[WORD.sleep], word);
});

test("BELL-2: awaiting something else while asleep counts as a new sleep, and is rung again", () => {
  const { bell, sleeper } = makePair();
  sleeper.park(AWAIT.frames);
  assert.equal(bell.mustRing(AWAIT.frames), true);
  sleeper.park(AWAIT.frames | AWAIT.space);
  assert.equal(sleeper.asleep, true);
  assert.equal(sleeper.sleeps, 2);
  assert.equal(bell.mustRing(AWAIT.space), true);
  assert.equal(bell.mustRing(AWAIT.space), false);
});

test("BELL-2: parking again while asleep is a new sleep, whatever is awaited", () => {
  const { bell, sleeper } = makePair();
  for (let sleep = 1; sleep <= 3; sleep++) {
    sleeper.park(AWAIT.frames);
    assert.equal(sleeper.sleeps, sleep);
    assert.equal(bell.mustRing(AWAIT.frames), true);
    assert.equal(bell.mustRing(AWAIT.frames), false);
  }
});

for (const [name, word] of [
  ["where its sign changes", 0x7fffffff],
  ["where it wraps", 0xffffffff],
] as const) {
  test(`the number of the sleep goes on ${name}`, () => {
    const { bell, sleeper, shared } = makePair();
    // Awake, four sleeps ago.
    setWord(sleeper, (word & -16) - 3 * 16);
    const seen = new Set<number>();
    for (let sleep = 0; sleep < 8; sleep++) {
      sleeper.park(AWAIT.frames);
      assert.equal(sleeper.asleep, true);
      assert.equal(bell.mustRing(AWAIT.space), false);
      assert.equal(bell.mustRing(AWAIT.frames), true);
      assert.equal(bell.mustRing(AWAIT.frames), false);
      seen.add(shared[WORD.sleep]);
      sleeper.wake();
      assert.equal(sleeper.asleep, false);
      assert.equal(bell.mustRing(AWAIT.frames), false);
    }
    assert.equal(seen.size, 8);
  });
}

test("a number that has wrapped around is rung, though it was rung a wrap ago", () => {
  const { bell, sleeper, shared } = makePair();
  sleeper.park(AWAIT.frames);
  const first = shared[WORD.sleep];
  assert.equal(bell.mustRing(AWAIT.frames), true);
  // Any check in between is enough: of an awake word, or of a sleep that does not await this.
  for (const between of [() => sleeper.wake(), () => sleeper.park(AWAIT.space)]) {
    between();
    assert.equal(bell.mustRing(AWAIT.frames), false);
    setWord(sleeper, 0);
    sleeper.park(AWAIT.frames);
    assert.equal(shared[WORD.sleep], first);
    assert.equal(bell.mustRing(AWAIT.frames), true);
  }
});

test("a word of the peer's making never gets more than one ring in a row", (context) => {
  const random = randomOf(context);
  const { bell, shared } = makePair();
  for (let round = 0; round < 10_000; round++) {
    shared[WORD.sleep] = random(2) === 0 ? random(64) : random(2 ** 32) | 0;
    const rung = [1, 2, 4, 1].filter((event) => bell.mustRing(event)).length;
    assert.ok(rung <= 1);
  }
});
