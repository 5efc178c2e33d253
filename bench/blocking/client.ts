/**
 * A client's process whose calls block it: `client.js PEER PATH NUMBER`. The same calls, checks and clocks as
 * `load.ts`.
 */
import { createBlockingClient } from "../../src/index.js";
import { echoBit, firstId, nextId } from "../answer.js";
import { runChild, send } from "../child.js";
import { HeapMeter, Recorder } from "../measure.js";
import { PayloadMismatch, PayloadPattern } from "../payload.js";
import { EchoService, type Payload } from "../proto/bench_pb.js";
import type { Load, Stretch } from "../protocol.js";

runChild(([, path, number]) => {
  const client = createBlockingClient(EchoService, { address: path });
  const recorder = new Recorder();
  let id = firstId(Number(number), 0);

  function run({ byteLength, echo, durationMs }: Load): Stretch {
    const pattern = new PayloadPattern(byteLength);
    const request: Payload = { $typeName: "isthmus.bench.Payload", id: 0n, data: new Uint8Array(byteLength) };
    recorder.reset();
    const heap = new HeapMeter();
    heap.start();
    const cpuFrom = process.cpuUsage();
    const from = performance.now();
    let producing: number;
    do {
      id = nextId(id);
      producing = performance.now();
      request.id = echo ? BigInt(id) | echoBit : BigInt(id);
      pattern.produce(request.data, id, "request");
      const called = performance.now();
      const reply = client.echo(request);
      const replied = performance.now();
      if (reply.id !== request.id)
        throw new PayloadMismatch(`payload mismatch: call ${id} was answered with the reply to ${reply.id}`);
      pattern.check(reply.data, id, echo ? "request" : "reply");
      recorder.add(replied - called, performance.now() - producing);
    } while (producing < from + durationMs);
    const elapsedMs = performance.now() - from;
    const cpu = process.cpuUsage(cpuFrom);
    return {
      calls: recorder.count,
      elapsedMs,
      cpuMicros: cpu.user + cpu.system,
      heapBytes: heap.stop(),
      ...recorder.samples(),
    };
  }

  return Promise.resolve((message) => {
    if (message.type === "run") send({ type: "stretch", stretch: run(message.load) });
    if (message.type === "stop") process.exit(0);
    return Promise.resolve();
  });
});
