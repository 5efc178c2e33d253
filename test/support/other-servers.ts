/** Servers on Unix sockets that are not Isthmus's. */
import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import type { Server, Socket } from "node:net";
import { createServer } from "node:net";
import type { Owner } from "./temp.js";
import { tempSocket } from "./temp.js";

export interface OtherServer {
  readonly path: string;
}

/** Accepts and never says anything. */
export function serveSilently(owner: Owner): Promise<OtherServer> {
  return listenOn(
    owner,
    createServer(() => {}),
  );
}

/** Does `clientHandshake` with every connection. */
export function serveRaw(owner: Owner, onConnection: (socket: Socket) => void): Promise<OtherServer> {
  return listenOn(owner, createServer(onConnection));
}

export function serveHttp(owner: Owner): Promise<OtherServer> {
  return listenOn(
    owner,
    createHttpServer((_, response) => response.end("hello")),
  );
}

async function listenOn(owner: Owner, server: Server): Promise<OtherServer> {
  const path = tempSocket(owner);
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.resume();
    socket.on("close", () => sockets.delete(socket));
  });
  server.listen(path);
  await once(server, "listening");
  owner.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { path };
}
