/**
 * The client that the runner tests: takes calls to make from standard input and answers with what came of them.
 *
 *   node client.js <descriptor set> <carrier>
 */
import type { IsthmusTransport } from "../../../src/index.js";
import { createIsthmusTransport } from "../../../src/index.js";
import { call } from "./call.js";
import type { Carrier } from "./carriers.js";
import { transportOptionsFor } from "./carriers.js";
import { endWithParent, readMessages, writeMessage } from "./delimited.js";
import type { ClientCompatRequest } from "./schema.js";
import { Schema } from "./schema.js";

/** Many calls share a connection, but not so many that those with short timeouts wait for the processor. */
const CALLS_AT_ONCE = 16;

async function main([descriptorSet, carrier]: readonly string[]): Promise<void> {
  endWithParent();
  const schema = new Schema(descriptorSet);
  const transports = new Map<string, IsthmusTransport>();
  /** Calls that ask for the same share it. */
  function transportFor(request: ClientCompatRequest): IsthmusTransport {
    const options = transportOptionsFor(carrier as Carrier, request);
    const key = JSON.stringify(options);
    const transport = transports.get(key) ?? createIsthmusTransport(options);
    transports.set(key, transport);
    return transport;
  }
  async function answer(request: ClientCompatRequest): Promise<void> {
    let result: object;
    try {
      result = {
        case: "response",
        value: schema.create("ClientResponseResult", await call(schema, transportFor(request), request)),
      };
    } catch (error) {
      result = { case: "error", value: { message: String(error) } };
    }
    writeMessage(schema.encode("ClientCompatResponse", { testName: request.testName, result }));
  }

  const open = new Set<Promise<void>>();
  for await (const bytes of readMessages()) {
    const answered = answer(schema.decode("ClientCompatRequest", bytes)).finally(() => open.delete(answered));
    open.add(answered);
    if (open.size >= CALLS_AT_ONCE) await Promise.race(open);
  }
  await Promise.all(open);
  for (const transport of transports.values()) await transport.close();
}

await main(process.argv.slice(2));
