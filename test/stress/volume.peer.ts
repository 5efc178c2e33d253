/** Both ends of the volume proof; `volume.test.ts` says what is proved. */
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import type { IsthmusServer } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import type { MemorySample } from "./observe.js";
import { sampleMemory } from "./observe.js";
import { DIRECTION, Payloads } from "./payload.js";
import { obey } from "./peer.js";

export interface VolumeRun {
  readonly path: string;
  readonly calls: number;
  readonly seed: number;
  readonly inFlight: number;
}

export interface VolumeServed {
  readonly served: number;
  readonly doubled: number;
  readonly missing: number;
  /** Requests small enough for the ring that ran after one that was issued later. */
  readonly reordered: number;
  readonly damaged: number;
  readonly samples: MemorySample[];
}

export interface VolumeCalled {
  readonly answered: number;
  readonly failed: number;
  readonly firstFailure: string;
  readonly foreign: number;
  readonly damaged: number;
  readonly milliseconds: number;
  readonly bytes: number;
  readonly samples: MemorySample[];
}

/**
 * A request whose data is at most this long travels whole in the ring; larger ones go in fragments and may be
 * overtaken.
 */
const INLINE_DATA_BYTES_MAX = 16_000;
const SAMPLES = 100;

let server: IsthmusServer;
let seen: Uint8Array;
let total = 0;
let served = 0;
let doubled = 0;
let reordered = 0;
let damaged = 0;
let samples: MemorySample[] = [];

obey({
  async listen({ path, calls, seed }: VolumeRun) {
    const payloads = new Payloads(seed);
    seen = new Uint8Array(Math.ceil(calls / 8));
    total = calls;
    let latest = -1;
    const sampleEvery = Math.ceil(calls / SAMPLES);
    server = createIsthmusServer({
      routes: ({ service }) =>
        service(TestService, {
          checksum(request) {
            const sequence = Number(request.sequence);
            const { data } = request;
            const bit = 1 << (sequence & 7);
            if ((seen[sequence >> 3] & bit) !== 0) doubled++;
            seen[sequence >> 3] |= bit;
            if (data.length <= INLINE_DATA_BYTES_MAX) {
              if (sequence < latest) reordered++;
              latest = sequence;
            }
            const whole = data.length === payloads.sizeOf(sequence, DIRECTION.request);
            if (!whole || payloads.checksumOf(data, sequence, DIRECTION.request) !== request.checksum) damaged++;
            if (served++ % sampleEvery === 0) samples.push(sampleMemory());
            const reply = payloads.make(sequence, DIRECTION.reply);
            return {
              sequence: request.sequence,
              checksum: payloads.checksumOf(reply, sequence, DIRECTION.reply),
              data: reply,
            };
          },
        }),
    });
    await server.listen(path);
  },
  served(): VolumeServed {
    let missing = 0;
    for (let sequence = 0; sequence < total; sequence++)
      if ((seen[sequence >> 3] & (1 << (sequence & 7))) === 0) missing++;
    return { served, doubled, missing, reordered, damaged, samples };
  },
  async call({ path, calls, seed, inFlight }: VolumeRun): Promise<VolumeCalled> {
    const payloads = new Payloads(seed);
    await using transport = createIsthmusTransport({ address: path });
    const client = createClient(TestService, transport);
    samples = [];
    let next = 0;
    let answered = 0;
    let failed = 0;
    let foreign = 0;
    let bad = 0;
    let bytes = 0;
    let firstFailure = "";
    const sampleEvery = Math.ceil(calls / SAMPLES);
    const worker = async () => {
      while (next < calls) {
        const sequence = next++;
        const data = payloads.make(sequence, DIRECTION.request);
        try {
          const checksum = payloads.checksumOf(data, sequence, DIRECTION.request);
          const reply = await client.checksum({ sequence: BigInt(sequence), checksum, data });
          answered++;
          bytes += data.length + reply.data.length;
          if (Number(reply.sequence) !== sequence) foreign++;
          const whole = reply.data.length === payloads.sizeOf(sequence, DIRECTION.reply);
          if (!whole || payloads.checksumOf(reply.data, sequence, DIRECTION.reply) !== reply.checksum) bad++;
        } catch (error) {
          if (failed++ === 0) firstFailure = String(error);
        }
        if (sequence % sampleEvery === 0) samples.push(sampleMemory());
      }
    };
    const start = performance.now();
    await Promise.all(Array.from({ length: inFlight }, worker));
    return {
      answered,
      failed,
      firstFailure,
      foreign,
      damaged: bad,
      milliseconds: performance.now() - start,
      bytes,
      samples,
    };
  },
});
