/**
 * The server that the runner tests: takes one request from standard input that says how to serve, answers where it
 * does, and serves until it is told to stop.
 *
 *   node server.js <descriptor set> <carrier> <folder for sockets>
 */
import { createIsthmusServer } from "../../../src/index.js";
import type { Carrier } from "./carriers.js";
import { listenOver } from "./carriers.js";
import { endWithParent, readMessages, writeMessage } from "./delimited.js";
import type { ServerCompatRequest } from "./schema.js";
import { Schema } from "./schema.js";
import { routesOf } from "./service.js";

async function main([descriptorSet, name, folder]: readonly string[]): Promise<void> {
  endWithParent();
  const carrier = name as Carrier;
  const schema = new Schema(descriptorSet);
  for await (const bytes of readMessages()) {
    const request = schema.decode<ServerCompatRequest>("ServerCompatRequest", bytes);
    const server = createIsthmusServer({
      routes: routesOf(schema),
      ...(carrier === "http" ? {} : { carrier }),
      readMaxBytes: request.messageReceiveLimit,
    });
    process.once("SIGTERM", () => void server.close({ timeoutMs: 1000 }));
    writeMessage(schema.encode("ServerCompatResponse", await listenOver(carrier, server, request, folder)));
  }
}

await main(process.argv.slice(2));
