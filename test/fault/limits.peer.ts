/** A server or client that runs out of descriptors or mappings, and says how its calls ended. */
import { closeSync, openSync } from "node:fs";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import type { IsthmusServer, IsthmusTransport } from "../../src/index.js";
import { requireAddon } from "../../src/os/addon.js";
import { TestService } from "../proto/test_pb.js";
import type { Failure } from "../stress/peer.js";
import { failureOf, obey } from "../stress/peer.js";

let server: IsthmusServer;
const transports: IsthmusTransport[] = [];
const taken: number[] = [];
/** Mappings that only take places in the kernel's table. */
let fillers: ArrayBuffer[] = [];

obey({
  async listen(path: string) {
    server = createIsthmusServer({ routes: ({ service }) => service(TestService, { echo: ({ text }) => ({ text }) }) });
    await server.listen(path);
  },
  stats: () => server.stats(),
  /** Opens up to `count` connections with a call on each; ends with the first that fails. */
  async open({ path, count }: { path: string; count: number }) {
    for (let opened = 0; opened < count; opened++) {
      const transport = createIsthmusTransport({ address: path });
      const failure = await callOn(transport);
      if (failure !== undefined) return { opened, failure };
      transports.push(transport);
    }
    return { opened: count };
  },
  /** Opens `count` connections at the same time, keeps none; the failures, and how long all took. */
  async openAtOnce({ path, count }: { path: string; count: number }) {
    const many = Array.from({ length: count }, () =>
      createIsthmusTransport({ address: path, handshakeTimeoutMs: 60_000, memory: { arenaBytes: 1 << 20 } }),
    );
    const start = performance.now();
    const ended = await Promise.all(many.map(callOn));
    const milliseconds = performance.now() - start;
    await Promise.all(many.map((transport) => transport.close()));
    return { failures: ended.filter((failure) => failure !== undefined), milliseconds };
  },
  /** Takes every descriptor that is left. */
  takeDescriptors() {
    try {
      for (;;) taken.push(openSync("/dev/null", "r"));
    } catch {
      return taken.length;
    }
  },
  giveDescriptorsBack() {
    for (const descriptor of taken.splice(0)) closeSync(descriptor);
  },
  /** A call on every open connection; the failures. */
  callAll: async () => (await Promise.all(transports.map(callOn))).filter((failure) => failure !== undefined),
  async close(count: number) {
    await Promise.all(transports.splice(0, count).map((transport) => transport.close()));
  },
  /** Takes all places in the table of mappings but a few; tells how many it took. */
  fillMappings({ spare }: { spare: number }) {
    fillers = fill(spare);
    return fillers.length;
  },
  async freeMappings() {
    free();
    await new Promise((resolve) => setTimeout(resolve, 100));
  },
  /** Fills the table, makes one call over a new connection, and frees the table again. */
  async callWithoutMappings({ path, spare }: { path: string; spare: number }): Promise<Failure | undefined> {
    const transport = createIsthmusTransport({ address: path });
    fillers = fill(spare);
    const failure = await callOn(transport);
    free();
    await transport.close();
    return failure;
  },
});

async function callOn(transport: IsthmusTransport): Promise<Failure | undefined> {
  try {
    const { text } = await createClient(TestService, transport).echo({ text: "alive" });
    if (text !== "alive") throw new Error("a wrong answer");
    return undefined;
  } catch (error) {
    return failureOf(error);
  }
}

function fill(spare: number): ArrayBuffer[] {
  const addon = requireAddon();
  const pageBytes = addon.pageSize();
  const segment = addon.createSegment("filler", pageBytes);
  const taken: ArrayBuffer[] = [];
  try {
    for (;;) taken.push(addon.mapSegment(segment, pageBytes, pageBytes, false));
  } catch {
    // Full.
  }
  for (const mapping of taken.splice(-spare)) addon.detachMapping(mapping);
  addon.closeDescriptor(segment);
  return taken;
}

function free(): void {
  const addon = requireAddon();
  for (const mapping of fillers.splice(0)) addon.detachMapping(mapping);
}
