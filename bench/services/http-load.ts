/**
 * Sends HTTP requests to a gateway, one at a time on each of its sockets: `http-load.js PEER PORT`.
 *
 * It takes little processor time of its own: a request is written from a buffer in which only the id changes, and a
 * response is read into another, cut at its empty line, and its payload compared.
 */
import net from "node:net";
import { firstId, nextId } from "../answer.js";
import { runChild, send } from "../child.js";
import { Recorder } from "../measure.js";
import { PayloadMismatch, PayloadPattern } from "../payload.js";
import type { Load, Stretch } from "../protocol.js";

const idAt = "GET /".length;
const responseBytesMax = 1_024;

runChild(([, port]) => {
  const recorder = new Recorder();

  async function run({ byteLength, inFlight, durationMs }: Load): Promise<Stretch> {
    const pattern = new PayloadPattern(byteLength);
    recorder.reset();
    const cpuFrom = process.cpuUsage();
    const from = performance.now();
    const lanes = Array.from({ length: inFlight }, (_, lane) =>
      drive(Number(port), firstId(0, lane), pattern, recorder, from + durationMs),
    );
    await Promise.all(lanes);
    const elapsedMs = performance.now() - from;
    const cpu = process.cpuUsage(cpuFrom);
    return {
      calls: recorder.count,
      elapsedMs,
      cpuMicros: cpu.user + cpu.system,
      heapBytes: null,
      ...recorder.samples(),
    };
  }

  return Promise.resolve(async (message) => {
    if (message.type === "stop") process.exit(0);
    if (message.type === "run") send({ type: "stretch", stretch: await run(message.load) });
  });
});

/** Opens a socket, and sends one request after the other on it. Resolves when the time is over. */
function drive(port: number, first: number, pattern: PayloadPattern, recorder: Recorder, until: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = Buffer.from("GET /00000000 HTTP/1.1\r\nHost: bench\r\n\r\n");
    const response = Buffer.alloc(responseBytesMax);
    let filled = 0;
    let id = first;
    let sentAt = 0;
    const next = (): void => {
      id = nextId(id);
      request.write(id.toString(16).padStart(8, "0"), idAt, "latin1");
      filled = 0;
      sentAt = performance.now();
      socket.write(request);
    };
    const received = (byteLength: number): void => {
      filled += byteLength;
      const body = bodyOf(response.subarray(0, filled), pattern.byteLength);
      if (body === null) return;
      const arrivedAt = performance.now();
      pattern.check(body, id, "reply");
      const checkedAt = performance.now();
      recorder.add(arrivedAt - sentAt, checkedAt - sentAt);
      if (checkedAt < until) return next();
      socket.destroy();
      resolve();
    };
    const socket = net.connect({
      host: "127.0.0.1",
      port,
      noDelay: true,
      onread: {
        buffer: () => response.subarray(filled),
        callback: (byteLength) => {
          try {
            received(byteLength);
          } catch (error) {
            socket.destroy(error as Error);
          }
          return true;
        },
      },
    });
    socket.on("connect", next).on("error", reject);
    socket.on("close", () => reject(new Error("the gateway closed a connection")));
  });
}

/** What comes after the head of a response, if all of it is there. */
function bodyOf(response: Buffer, byteLength: number): Buffer | null {
  const headEnd = response.indexOf("\r\n\r\n");
  if (headEnd < 0) return null;
  const head = response.toString("latin1", 0, headEnd);
  if (!head.startsWith("HTTP/1.1 200 ")) {
    throw new PayloadMismatch(`payload mismatch: the gateway answered ${head}`);
  }
  const body = response.subarray(headEnd + 4);
  return body.length < byteLength ? null : body;
}
