/** What tests over HTTP need: plain Connect servers, and a certificate. */
import { once } from "node:events";
import { createServer as createHttp2Server } from "node:http2";
import type { AddressInfo, Server, Socket } from "node:net";
import { createServer } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Owner } from "./temp.js";

/** Listens on a free port of the loopback interface. Its connections end with the test. */
export async function onFreePort(owner: Owner, server: Server): Promise<string> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  owner.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Connect's own server, as any user has it. */
export function servePlainConnect(owner: Owner, routes: (router: ConnectRouter) => void): Promise<string> {
  return onFreePort(owner, createHttp2Server(connectNodeAdapter({ routes })) as unknown as Server);
}

/** An address where nobody listens. */
export async function freeAddress(): Promise<string> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return `http://127.0.0.1:${port}`;
}
