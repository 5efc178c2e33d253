/**
 * Runs an example: its server and its client as separate processes, with a socket in a new folder.
 * Usage: node dist/examples/run.js EXAMPLE [ARGUMENTS OF THE CLIENT]
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const [, , name = "", ...parameters] = process.argv;
const program = (role: string) => fileURLToPath(new URL(`./${name}/${role}.js`, import.meta.url));
if (!/^[\w-]+$/.test(name) || !existsSync(program("server"))) {
  console.error("Usage: node dist/examples/run.js EXAMPLE; see examples/README.md");
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "isthmus-example-"));
const socket = join(folder, "example.sock");
const start = (role: string, ...more: string[]) =>
  spawn(process.execPath, [program(role), socket, ...more], { stdio: "inherit" });
const exitCode = async (child: ReturnType<typeof start>) => ((await once(child, "exit")) as [number | null])[0] ?? 1;

const server = start("server");
const serverEnd = exitCode(server);
while (!existsSync(socket) && server.exitCode === null) await sleep(5);
const clientCode = await exitCode(start("client", ...parameters));
server.kill("SIGTERM");
process.exitCode = clientCode || (await serverEnd);
rmSync(folder, { recursive: true, force: true });
