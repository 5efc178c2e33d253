/**
 * The server that the runner tests: takes one request from standard input that says how to serve, answers where it does, and
 * serves until it is told to stop.
 *
 *   node server.js <descriptor set> <carrier> <folder for sockets>
 */
import { join } from "node:path";
import { createIsthmusServer } from "../../../src/index.js";
import { endWithParent, readMessages, writeMessage } from "./delimited.js";
import type { ServerCompatRequest } from "./schema.js";
import { Schema } from "./schema.js";
import { routesOf } from "./service.js";

async function main([descriptorSet, carrier, folder]: readonly string[]): Promise<void> {
  endWithParent();
  const schema = new Schema(descriptorSet);
  for await (const bytes of readMessages()) {
    const { messageReceiveLimit } = schema.decode<ServerCompatRequest>("ServerCompatRequest", bytes);
    const server = createIsthmusServer({ routes: routesOf(schema), carrier: carrier as "shm" | "socket", readMaxBytes: messageReceiveLimit });
    const path = join(folder, `${process.pid}.sock`);
    await server.listen(path);
    process.once("SIGTERM", () => void server.close({ timeoutMs: 1000 }));
    // The runner hands the host on as it is, and wants a port.
    writeMessage(schema.encode("ServerCompatResponse", { host: path, port: 1 }));
  }
}

await main(process.argv.slice(2));
