/**
 * A worker thread that has memory of connections in its hands, tries to give it to its parent, and ends when it is told
 * to.
 */
import { writeFileSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { createClient } from "@connectrpc/connect";
import { createIsthmusTransport, loan, mapFile, region, release } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { patternBytes } from "../support/checksum.js";
import type { MemoryTask } from "./thread-memory.test.js";

const { kind, carrier, path, file } = workerData as MemoryTask;
/** So many that blocks are used again. */
const TRIES = 12;
const BYTES = 300_000;
const transport = createIsthmusTransport({ address: path, carrier });
const client = createClient(TestService, transport);

async function make(seed: number): Promise<Uint8Array> {
  const bytes = patternBytes(BYTES, seed);
  if (kind === "lease") return (await client.echo({ data: bytes })).data;
  if (kind === "file") {
    writeFileSync(file, bytes);
    return mapFile(file);
  }
  if (kind === "received region") {
    const sent = await region(BYTES);
    sent.set(bytes);
    return (await client.echo({ data: sent })).data;
  }
  const made = kind === "loan" ? await loan(transport, BYTES) : await region(BYTES);
  made.set(bytes);
  return made;
}

/** How the first and the later uses of one place in memory go: a buffer that was used before is another object. */
const outcomes: string[] = [];
for (let seed = 1; seed <= TRIES; seed++) {
  const bytes = await make(seed);
  const isWhole = Buffer.compare(bytes, patternBytes(BYTES, seed)) === 0;
  let outcome = isWhole ? "" : "damaged before";
  try {
    parentPort!.postMessage({ seed, bytes }, [bytes.buffer as ArrayBuffer]);
    outcome += bytes.length === 0 ? "moved" : "copied";
  } catch (error) {
    outcome += (error as Error).name;
  }
  // Still its user's, who can give it back.
  if (bytes.length > 0 && Buffer.compare(bytes, patternBytes(BYTES, seed)) !== 0) outcome += ", damaged";
  release(bytes);
  outcomes.push(outcome);
}
const kept = await make(TRIES + 1);
// Its own copy may go anywhere.
const copy = kept.slice();
parentPort!.postMessage({ seed: TRIES + 1, bytes: copy }, [copy.buffer]);
parentPort!.once("message", () => process.exit(kept.length === 0 ? 1 : 0));
parentPort!.postMessage(outcomes);
