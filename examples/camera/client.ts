/**
 * The camera: draws 1080p frames into shared memory and has another process look at them without a copy.
 * Usage: node client.js SOCKET [FRAMES]
 */
import { deepStrictEqual, strictEqual } from "node:assert";
import { createHistogram } from "node:perf_hooks";
import { createClient, createIsthmusTransport, loan } from "../../src/index.js";
import { DetectorService } from "./camera_pb.js";
import type { Rectangle } from "./frames.js";
import { draw, PIXEL_BYTES, SIDE_MIN } from "./frames.js";

const [, , address, frames = "300"] = process.argv;
const [WIDTH, HEIGHT] = [1920, 1080];
const below = (limit: number) => Math.floor(Math.random() * limit);

function randomBox(): Rectangle {
  const [width, height] = [SIDE_MIN + below(200), SIDE_MIN + below(200)];
  return { width, height, x: below(WIDTH - width), y: below(HEIGHT - height) };
}

const transport = createIsthmusTransport({ address });
const client = createClient(DetectorService, transport);
const callNs = createHistogram();
const start = performance.now();
for (let sequence = 1; sequence <= Number(frames); sequence++) {
  const rgb = await loan(transport, WIDTH * HEIGHT * PIXEL_BYTES);
  const drawn = randomBox();
  draw(rgb, WIDTH, drawn);

  const called = process.hrtime.bigint();
  const reply = await client.detect({ sequence, width: WIDTH, height: HEIGHT, rgb });
  callNs.record(process.hrtime.bigint() - called);

  strictEqual(rgb.length, 0, "the call takes the loan: nobody changes a frame that was sent");
  strictEqual(reply.sequence, sequence);
  const { x, y, width, height } = reply.box!;
  deepStrictEqual({ width, height, x, y }, drawn);
}
const seconds = (performance.now() - start) / 1000;

const micros = (percentile: number) => (callNs.percentile(percentile) / 1000).toFixed(0);
console.log(
  `${frames} frames of ${WIDTH} × ${HEIGHT} over ${transport.carrier}: ${(Number(frames) / seconds).toFixed(0)} frames/s with drawing; a call p50 ${micros(50)} µs, p99 ${micros(99)} µs`,
);
console.log(`verified: the rectangle was found where it was drawn, in ${frames} of ${frames} frames`);
await transport.close();
