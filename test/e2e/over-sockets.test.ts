/**
 * The end-to-end suites, and further proofs, once more, without the addon: the same bodies over the socket carrier, on
 * the same Node.js. Each suite is a test here, and a failure names what failed in it.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { CARRIER } from "../support/carriers.js";

/** Suites that are not run again, each with the reason. */
const LEFT_OUT: Record<string, string> = {
  "carriers.test.js": "chooses its carriers itself",
  "connections.test.js": "chooses its carriers itself",
  "allow.test.js": "decides by credentials, which only the addon can ask for",
  "bytes.test.js": "chooses its carriers itself",
  "fallback.test.js": "chooses its carriers itself",
  "grpc-js-bytes.test.js": "chooses its carriers itself",
  "grpc-js-given.test.js": "chooses its carriers itself",
  "own-context.test.js": "chooses its carriers itself",
  "resizable.test.js": "chooses its carriers itself",
  "runtimes.test.js": "chooses its carriers itself",
  "settles-once.test.js": "chooses its carriers itself",
  "thread-descriptors.test.js": "chooses its carriers itself",
  "thread-memory.test.js": "chooses its carriers itself",
  "every-carrier.test.js": "chooses its carriers itself; over TCP it runs what runs without the addon",
  "containers.test.js": "is about sharing memory",
  "hostile-spans.test.js": "lies in shared memory",
  "lease-basics.test.js": "leases are blocks of shared memory",
  "lease-edges.test.js": "leases are blocks of shared memory",
  "loan-edges.test.js": "is about blocks of shared memory; loans on the heap are in loan-basics.test.ts",
  "files-sockets.test.js": "files are sent as files with the addon only",
  "demo.test.js": "the demo compares with shared memory",
  "hostile-clients.test.js": "lies in shared memory; lies on a socket are in hostile-streams.test.ts",
  "hostile-regions.test.js": "lies about shared memory",
  "hostile-servers.test.js": "lies in shared memory; lies on a socket are in hostile-streams.test.ts",
  "blocking.test.js": "blocking calls need shared memory",
  "server-workers.test.js": "connections are handed to threads by the addon",
  "server-workers-load.test.js": "connections are handed to threads by the addon",
  "hostile-http1.test.js": "is about connections of HTTP, where the addon has no part",
  "hostile-http2.test.js": "is about connections of HTTP, where the addon has no part",
  "http-cors.test.js": "is about headers of HTTP, where the addon has no part",
  "over-sockets.test.js": "this suite",
};
/** Other proofs that are about connections, not about shared memory. */
const FURTHER = [
  "../fault/death.test.js",
  "../stress/liveness.test.js",
  "../stress/pressure.test.js",
  "../stress/volume.test.js",
];
/** Only to end what hangs. */
const SUITE_MS_MAX = 900_000;

const folder = fileURLToPath(new URL(".", import.meta.url));
const suites = readdirSync(folder).filter((name) => name.endsWith(".test.js"));

interface Outcome {
  readonly code: number | null;
  readonly passed: number;
  readonly report: string;
}

async function runWithoutAddon(suite: string): Promise<Outcome> {
  // Else the child would think that it belongs to this run.
  const env = { ...process.env, ISTHMUS_ADDON: "none" };
  Reflect.deleteProperty(env, "NODE_TEST_CONTEXT");
  const child = spawn(process.execPath, ["--no-warnings", "--test", "--test-reporter=tap", folder + suite], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: SUITE_MS_MAX,
    killSignal: "SIGKILL",
  });
  let report = "";
  child.stdout.on("data", (chunk: Buffer) => (report += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (report += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, passed: Number(/^# pass (\d+)$/m.exec(report)?.[1] ?? 0), report };
}

/** What failed, with its details. */
function failuresIn(report: string): string {
  const failed = report.split(/^(?=\s*# Subtest: )/m).filter((part) => /^\s*not ok /m.test(part));
  return failed.length > 0 ? failed.join("\n") : report.slice(-4000);
}

describe("over the socket, without the addon", {
  skip: CARRIER === "socket" ? "it is run like that already" : false,
}, () => {
  for (const suite of [...suites.filter((name) => !(name in LEFT_OUT)), ...FURTHER]) {
    test(suite.replace(/^.*\/|\.test\.js$/g, ""), async (context) => {
      const { code, passed, report } = await runWithoutAddon(suite);
      assert.equal(code, 0, failuresIn(report));
      assert.ok(passed > 0, "no test was run");
      context.diagnostic(`${passed} tests passed`);
    });
  }
});

test("what is left out is there, so that the list does not outlive its reasons", () => {
  for (const name of Object.keys(LEFT_OUT)) assert.ok(suites.includes(name), name);
});
