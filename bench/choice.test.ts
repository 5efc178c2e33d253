import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { choose, parts } from "./choice.js";
import { canPlay, nativePeerNames, nodePeerNames } from "./peers/peer.js";
import { nativeScenarios, scenarios } from "./scenarios.js";

describe("choice", () => {
  test("without names, all but the native peers take part in everything", () => {
    assert.deepEqual(choose([], "full", false), { peers: nodePeerNames, scenarios, parts });
  });

  test("native peers come with scenarios of their own, and without the parts", () => {
    const choice = choose([], "full", true);
    assert.deepEqual(choice.scenarios, nativeScenarios);
    assert.deepEqual(choice.parts, []);
    for (const peer of [...nativePeerNames, "isthmus", "net"] as const) assert.ok(choice.peers.includes(peer), peer);
  });

  test("a part is chosen alone, and with the peers that are named", () => {
    assert.deepEqual(choose(["codec"], "full", false).scenarios, []);
    assert.deepEqual(choose(["codec"], "full", false).parts, ["codec"]);
    const choice = choose(["services", "net", "isthmus"], "full", false);
    assert.deepEqual(choice, { peers: ["isthmus", "net"], scenarios: [], parts: ["services"] });
  });

  test("scenarios are chosen by parts of their names", () => {
    const choice = choose(["net", "parked"], "full", false);
    assert.deepEqual(choice.peers, ["net"]);
    assert.ok(choice.scenarios.length > 0);
    assert.ok(choice.scenarios.every(({ name }) => name.includes("parked")));
    assert.deepEqual(choice.parts, []);
    assert.equal(choose(["net"], "full", false).scenarios, scenarios);
  });

  test("peers take part where they can", () => {
    const small = { byteLength: 64, echo: false, clients: 1 };
    assert.ok(canPlay("c-spin", small) && canPlay("net", small) && !canPlay("isthmus-4-workers", small));
    assert.ok(!canPlay("grpc-go", { ...small, byteLength: 1 << 20 }));
    assert.ok(!canPlay("grpc-go", { ...small, echo: true }));
    assert.ok(!canPlay("grpc-go", { ...small, clients: 4 }));
    assert.ok(canPlay("isthmus-4-workers", { ...small, clients: 4 }));
  });

  test("a name that means nothing is refused", () => {
    assert.throws(() => choose(["parkd"], "full", false), /--only parkd/);
  });
});
