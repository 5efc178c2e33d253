/**
 * Writes a file, reads it back from the server in parts, and compares the two.
 * Usage: node client.js SOCKET [MEGABYTES]
 */
import { rejects, strictEqual } from "node:assert";
import { createHash, randomBytes } from "node:crypto";
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { createClient, createIsthmusTransport, release } from "../../src/index.js";
import { FileService } from "./file_server_pb.js";

const [, , address, megabytes = "64"] = process.argv;
const PART_BYTES = 8 << 20;
const name = "sample.bin";
const path = join(dirname(address), name);

const written = createHash("sha256");
const file = openSync(path, "wx");
for (let at = 0; at < Number(megabytes); at++) {
  const chunk = randomBytes(1 << 20);
  written.update(chunk);
  writeSync(file, chunk);
}
// The last part is not full, and its size is no round number.
const rest = randomBytes(12_345);
written.update(rest);
writeSync(file, rest);
closeSync(file);

const transport = createIsthmusTransport({ address });
const client = createClient(FileService, transport);
const read = createHash("sha256");
let fileBytes = Infinity;
let parts = 0;
let callMs = 0;
for (let offset = 0; offset < fileBytes; ) {
  const start = performance.now();
  const part = await client.read({ name, offset: BigInt(offset), length: PART_BYTES });
  callMs += performance.now() - start;
  fileBytes = Number(part.fileBytes);
  strictEqual(part.data.length, Math.min(PART_BYTES, fileBytes - offset));
  offset += part.data.length;
  read.update(part.data);
  release(part);
  parts++;
}
const digest = read.digest("hex");
strictEqual(digest, written.digest("hex"));
await rejects(client.read({ name: "../../etc/passwd", offset: 0n, length: 1 }), /not the name of a file/);
await rejects(client.read({ name: "none.bin", offset: 0n, length: 1 }), /no such file/);

console.log(
  `${fileBytes} bytes in ${parts} parts over ${transport.carrier}: ${(fileBytes / 1e3 / callMs).toFixed(0)} MB/s`,
);
console.log(`verified: SHA-256 ${digest} on both sides`);
await transport.close();
rmSync(path);
