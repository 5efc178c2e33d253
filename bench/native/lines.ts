/**
 * What the main process and a native child say to each other: a line each, on the child's standard input and output.
 *
 * ```
 * to the child      run BYTES IN_FLIGHT PAUSE_MS CALLS_MAX DURATION_MS     (CALLS_MAX 0: no limit)
 *                   usage · port · delays · stop
 * from the child    {"type":"ready"}    messages of protocol.ts as JSON
 * ```
 *
 * The child ends when its standard input does.
 */
import type { FromChild, ToChild } from "../protocol.js";

export function encodeMessage(message: ToChild): string {
  switch (message.type) {
    case "run": {
      const { byteLength, inFlight, pauseMs, callsMax, durationMs, echo } = message.load;
      if (echo) throw new Error("native peers do not serve echo scenarios");
      return `run ${byteLength} ${inFlight} ${pauseMs} ${callsMax ?? 0} ${durationMs}\n`;
    }
    case "usage":
    case "port":
    case "delays":
    case "stop":
      return `${message.type}\n`;
    default:
      throw new Error(`native peers do not know "${message.type}"`);
  }
}

export function decodeMessage(line: string): FromChild {
  const message = JSON.parse(line) as FromChild;
  // JSON has arrays of numbers.
  if (message.type === "delays") return { ...message, delaysMs: Float64Array.from(message.delaysMs) };
  if (message.type !== "stretch") return message;
  const { stretch } = message;
  const [callMs, payloadMs] = [Float64Array.from(stretch.callMs), Float64Array.from(stretch.payloadMs)];
  return { type: "stretch", stretch: { ...stretch, callMs, payloadMs } };
}

/** Cuts what a child writes into lines. Long lines come in many chunks, which are joined once. */
export class LineSplitter {
  readonly #onLine: (line: string) => void;
  #chunks: Buffer[] = [];

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  add(chunk: Buffer): void {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      this.#chunks.push(chunk.subarray(from, end));
      const line = Buffer.concat(this.#chunks).toString("utf8");
      this.#chunks = [];
      from = end + 1;
      this.#onLine(line);
    }
    if (from < chunk.length) this.#chunks.push(chunk.subarray(from));
  }
}
