/** A server and a client, connected. */
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { Peer } from "./processes.js";
import { scratchFolder, startPeer } from "./processes.js";

const program = new URL("./economy.peer.js", import.meta.url);

export async function startPair(t: TestContext): Promise<[Peer, Peer]> {
  const path = join(scratchFolder(t), "economy.sock");
  const [server, client] = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  await server.ask("listen", path);
  await client.ask("connect", path);
  return [server, client];
}
