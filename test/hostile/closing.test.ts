/** Peers that send descriptors whose close waits or takes long: no event loop waits for it. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import type { TestContext } from "node:test";
import { createIsthmusServer } from "../../src/index.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestClient, TestServerProcess } from "../support/test-server.js";
import { connectTo, serveInChild, warmUp } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { waitUntil, within } from "../support/waiting.js";
import { noPython, runPython } from "./python.js";

/** Far less than the ten minutes for which the sockets linger. */
const PATIENCE_MS = 30_000;

/** Sends lingering sockets to the server, and stays connected until the test ends. Returns what it reports. */
const sendLingering = (owner: Owner, path: string, way: string): Promise<string> =>
  runPython(owner, "linger.py", path, way).report;

describe("descriptors whose close waits", { skip: noPython }, () => {
  const owner = suiteOwner();
  let server: TestServerProcess;
  let honest: TestClient;

  before(async () => {
    server = await serveInChild(owner, { handshakeTimeoutMs: 3000 });
    await warmUp(server);
    honest = connectTo(owner, server);
    await honest.client.echo({});
  });

  const stillServes = async () => {
    for (let call = 0; call < 20; call++) {
      await within(PATIENCE_MS, "an honest call", honest.client.echo({ text: "honest" }));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };

  for (const way of [
    "with the greeting",
    "as the memory that was asked for",
    "with bytes that are no greeting",
    "without their byte",
    "two with one byte",
    "more than a control buffer holds",
    "behind a violation",
    "as a region",
    "out of band",
  ]) {
    test(`sent ${way}, they do not stop the server`, async (context: TestContext) => {
      const report = await sendLingering(context, server.path, way);
      assert.match(report, /^(sent|Operation not permitted|Broken pipe|Connection reset by peer)$/);
      await stillServes();
      // The attacker's connection ends, and a new client is served as before.
      await waitUntil("only the honest connection to be left", async () => {
        const { connections } = await server.stats();
        return connections === 1 || way === "as a region" || way === "out of band";
      });
      await within(PATIENCE_MS, "a new client", connectTo(context, server).client.echo({}));
    });
  }

  /** The library reads such a socket by means of Node, which cannot tell the kernel to be careful. */
  test("sent as frames of a socket, they are refused by the kernel", async (context) => {
    const report = await sendLingering(context, server.path, "as frames of a socket");
    if (report === "sent") return context.skip("this kernel cannot refuse descriptors (before Linux 6.16)");
    assert.equal(report, "Operation not permitted");
    await stillServes();
  });
});

test("a user who is refused cannot send any", { skip: noPython }, async (context) => {
  const path = tempSocket(context);
  let refusals = 0;
  const server = createIsthmusServer({ routes: testRoutes, allow: () => refusals++ < 0 });
  await server.listen(path);
  context.after(() => server.close({ timeoutMs: 0 }));
  // If the close of what they sent were waited for, this test would be, too.
  const report = await sendLingering(context, path, "with the greeting");
  assert.match(report, /^(sent|Operation not permitted|Broken pipe|Connection reset by peer)$/);
  await waitUntil("the refusal", () => server.stats().refused === 1);
});
