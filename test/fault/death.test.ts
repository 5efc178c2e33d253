/** SIGKILL of either side at random moments under load. How soon the other side knows is in death.timing.test.ts. */
import { test } from "node:test";
import { killClients, killServers } from "./death.scene.js";

test("when the server is killed, every pending call rejects once as Unavailable and the next call finds the new server", {
  timeout: 600_000,
}, async (t) => {
  await killServers(t);
});

test("when a client is killed, the signals of its handlers abort and the server serves the next client", {
  timeout: 600_000,
}, async (t) => {
  await killClients(t);
});
