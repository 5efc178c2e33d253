/** Serves the files in the folder of its socket. Usage: node server.js SOCKET */
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { createIsthmusServer, mapFile } from "../../src/index.js";
import { FileService } from "./file_server_pb.js";

const [, , socket] = process.argv;
const folder = dirname(socket);

async function sizeOf(path: string): Promise<number> {
  try {
    const found = await stat(path);
    if (found.isFile()) return found.size;
  } catch {
    // Answered like a path that is not a file.
  }
  throw new ConnectError(`no such file: ${basename(path)}`, Code.NotFound);
}

const server = createIsthmusServer({
  routes: (router) =>
    router.service(FileService, {
      async read({ name, offset, length }) {
        if (basename(name) !== name || name.startsWith("."))
          throw new ConnectError(`not the name of a file: ${JSON.stringify(name)}`, Code.InvalidArgument);
        const path = join(folder, name);
        const fileBytes = await sizeOf(path);
        const start = Math.min(Number(offset), fileBytes);
        // The file's bytes go straight to where the client reads them, never to this process's heap.
        const data = await mapFile(path, { offset: start, length: Math.min(length, fileBytes - start) });
        return { data, fileBytes: BigInt(fileBytes) };
      },
    }),
});
await server.listen(socket);
process.once("SIGTERM", () => void server.close());
