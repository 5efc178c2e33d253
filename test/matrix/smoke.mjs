// Calls over shared memory between two processes, with the addon that ISTHMUS_ADDON names: node smoke.mjs FOLDER-OF-DIST
// Prints what it saw. Run by scripts/smoke.mjs with Node for other CPUs and C libraries.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [dist, role, path] = process.argv.slice(2);
const { createClient, createIsthmusServer, createIsthmusTransport, loan } = await import(`${dist}/src/index.js`);
const { StreamService } = await import(`${dist}/test/proto/streams_pb.js`);

if (role === "server") {
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(StreamService, {
        echo: ({ text, data }) => ({ text, data }),
        async *count({ count }) {
          for (let number = 0n; number < count; number++) yield { number };
        },
      }),
  });
  await server.listen(path);
  process.send("ready");
  process.once("disconnect", () => void server.close());
} else {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-smoke-"));
  const socket = join(folder, "smoke.sock");
  // How Node is started: behind an emulator or a loader, if need be.
  const [program, ...before] = JSON.parse(process.env.SMOKE_COMMAND);
  const child = spawn(program, [...before, fileURLToPath(import.meta.url), dist, "server", socket], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  await once(child, "message");
  // An emulated processor is slow.
  const transport = createIsthmusTransport({ address: socket, carrier: "shm", handshakeTimeoutMs: 30_000 });
  const client = createClient(StreamService, transport);
  const { text } = await client.echo({ text: "echo" });
  const numbers = [];
  for await (const { number } of client.count({ count: 3n })) numbers.push(number);
  const data = await loan(transport, 1 << 20);
  data.fill(7);
  const reply = await client.echo({ data });
  const isRight = reply.data.length === 1 << 20 && reply.data.every((byte) => byte === 7) && data.length === 0;
  console.log(`${transport.carrier} ${text} ${numbers.join("")} ${isRight ? "right" : "WRONG"}`);
  await transport.close();
  child.disconnect();
  await once(child, "exit");
  rmSync(folder, { recursive: true, force: true });
}
