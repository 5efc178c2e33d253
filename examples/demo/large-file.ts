/** Part 3: a large real file in one call; the other process returns its SHA-256, and sha256sum computes it too. */
import { readFile } from "node:fs/promises";
import { createClient } from "../../src/index.js";
import { ProbeService } from "./demo_pb.js";
import type { DemoContext, Verdict } from "./part.js";
import { failed, passed } from "./part.js";
import { count, figure, megabytes } from "./text.js";
import { quoteForShell } from "./verify.js";

export async function runLargeFile({ screen, children, transport }: DemoContext): Promise<Verdict> {
  const path = process.execPath;
  const data = await readFile(path);
  const client = createClient(ProbeService, transport);

  const start = performance.now();
  const reply = await client.digest({ data });
  const millis = performance.now() - start;
  const carryMillis = Math.max(millis - reply.hashMillis, 0.001);
  const rate = (bytes: number, during: number) => `${count(bytes / during / 1000)} MB/s`;
  screen.print(
    `   ${path}, ${count(data.length)} bytes in one \`bytes\` field: ${screen.bold(`${figure(millis)} ms`)}, ${rate(data.length, millis)}`,
    `   of which ${screen.bold(`${figure(carryMillis)} ms`)} to carry it (${screen.bold(rate(data.length, carryMillis))}) and ${figure(reply.hashMillis)} ms to hash it over there`,
  );

  const command = `sha256sum ${quoteForShell(path)}`;
  const { output, errorOutput } = await children.run(command);
  // A name with odd characters makes sha256sum put a backslash in front.
  const expected = /^\\?([0-9a-f]{64})\b/.exec(output)?.[1];
  if (expected === undefined) return failed(`${command}: ${errorOutput.trim() || "no hash"}`);
  const same = expected === reply.sha256;
  screen.print(`   ${same ? screen.green("✓") : screen.red("✗")} ${reply.sha256}  ${command}`);
  if (!same) return failed(`sha256sum says ${expected}`);
  if (reply.bytes !== BigInt(data.length))
    return failed(`${count(reply.bytes)} of ${count(data.length)} bytes arrived`);
  return passed(`${megabytes(data.length)} arrived unchanged`);
}
