/**
 * Fills an index with batches of vectors that it builds in shared memory, then searches the index.
 * Usage: node client.js SOCKET [VECTORS]
 */
import { ok, strictEqual } from "node:assert";
import { typedList } from "../../src/codec/index.js";
import { createClient, createIsthmusTransport, loan } from "../../src/index.js";
import { EmbeddingIndexService } from "./embeddings_pb.js";

const [, , address, vectors = "8192"] = process.argv;
const [DIMENSIONS, BATCH, K, QUERIES] = [384, 1024, 10, 5];
const count = Math.ceil(Number(vectors) / BATCH) * BATCH;
const all = Float64Array.from({ length: count * DIMENSIONS }, () => Math.fround(Math.random() - 0.5));

const transport = createIsthmusTransport({ address });
const client = createClient(EmbeddingIndexService, transport);
let addMs = 0;
for (let first = 0; first < count; first += BATCH) {
  const memory = await loan(transport, BATCH * DIMENSIONS * Float32Array.BYTES_PER_ELEMENT);
  const values = new Float32Array(memory.buffer, memory.byteOffset, BATCH * DIMENSIONS);
  values.set(all.subarray(first * DIMENSIONS, (first + BATCH) * DIMENSIONS));
  const start = performance.now();
  strictEqual((await client.add({ dimensions: DIMENSIONS, values: typedList(values) })).count, first + BATCH);
  addMs += performance.now() - start;
}

/** Computed differently from the server: in double precision, from unscaled vectors. */
function cosine(query: Float64Array, id: number): number {
  let [dot, lengthA, lengthB] = [0, 0, 0];
  for (let at = 0; at < DIMENSIONS; at++) {
    const [a, b] = [query[at], all[id * DIMENSIONS + at]];
    dot += a * b;
    lengthA += a * a;
    lengthB += b * b;
  }
  return dot / Math.sqrt(lengthA * lengthB);
}

for (let asked = 0; asked < QUERIES; asked++) {
  // A slightly changed vector of the index: that vector must come first.
  const wanted = Math.floor(Math.random() * count);
  const query = Float64Array.from({ length: DIMENSIONS }, (_, at) =>
    Math.fround(all[wanted * DIMENSIONS + at] + 0.1 * (Math.random() - 0.5)),
  );
  const { matches } = await client.topK({ values: typedList(Float32Array.from(query)), k: K });
  const best = Array.from({ length: count }, (_, id) => cosine(query, id))
    .sort((a, b) => b - a)
    .slice(0, K);
  strictEqual(matches[0].id, wanted);
  strictEqual(new Set(matches.map(({ id }) => id)).size, K);
  matches.forEach(({ id, score }, rank) => {
    ok(
      Math.abs(score - best[rank]) < 1e-5 && Math.abs(score - cosine(query, id)) < 1e-5,
      `rank ${rank}: vector ${id} with ${score}, expected ${best[rank]}`,
    );
  });
}

const megabytes = (count * DIMENSIONS * Float32Array.BYTES_PER_ELEMENT) / 1e6;
console.log(
  `${count} vectors of ${DIMENSIONS} floats over ${transport.carrier}, in batches of ${BATCH}: ${megabytes.toFixed(1)} MB in ${addMs.toFixed(0)} ms`,
);
console.log(`verified: ${QUERIES} of ${QUERIES} searches gave the best ${K}, with the scores computed here`);
await transport.close();
