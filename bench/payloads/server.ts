/** The server's process of the payloads' part: `server.js PATH`. */
import { createIsthmusServer, loan } from "../../src/index.js";
import { runChild } from "../child.js";
import { EchoService } from "../proto/bench_pb.js";
import { OPERATION, readId } from "./task.js";

runChild(async ([path]) => {
  const server = createIsthmusServer({
    carrier: "shm",
    leases: "scoped",
    routes: (router) =>
      router.service(EchoService, {
        async echo({ id, data }, context) {
          const entered = process.hrtime.bigint();
          const { operation, byteLength } = readId(id);
          if (operation === OPERATION.echo) return { id, data };
          if (operation === OPERATION.take) return { id: entered };
          const reply = await loan(context, byteLength);
          reply[0] = 1;
          reply[byteLength - 1] = 2;
          return { id, data: reply };
        },
      }),
  });
  await server.listen(path);
  return async (message) => {
    if (message.type !== "stop") return;
    await server.close();
    process.exit(0);
  };
});
