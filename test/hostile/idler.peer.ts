/** A process that opens connections to a path and says one byte on each, then nothing. */
import { connect } from "node:net";
import type { Socket } from "node:net";
import { answerParent, childData } from "../support/processes.js";

const { path } = childData<{ path: string }>();
const sockets: Socket[] = [];
let closed = 0;
// Stays until it is killed.
setInterval(() => undefined, 60_000);

answerParent({
  /** Resolves when all are connected, or were refused. */
  async open(count: number) {
    await Promise.all(
      Array.from({ length: count }, async () => {
        const socket = connect(path);
        sockets.push(socket);
        socket.on("error", () => undefined).on("close", () => closed++);
        await new Promise<void>((resolve) => {
          socket.on("connect", () => socket.write("I", () => resolve()));
          socket.on("close", () => resolve());
        });
      }),
    );
  },
  closed: () => closed,
});
