/**
 * An HTTP/1.1 server that makes a call of each request: `gateway.js PEER PATH`.
 *
 * `GET /ID`, with the call's id as eight hexadecimal digits, is answered with the payload of the backend's reply. The
 * backend checks the call's payload, and whoever sent the HTTP request checks the reply's.
 */
import http from "node:http";
import type { AddressInfo } from "node:net";
import { fail, runChild, send } from "../child.js";
import { PayloadPattern } from "../payload.js";
import { loadPeer, type NodePeerName } from "../peers/peer.js";
import { gatewayBytes } from "./task.js";

runChild(async ([name, path]) => {
  const peer = await loadPeer(name as NodePeerName);
  const connection = await peer.connect(path);
  const pattern = new PayloadPattern(gatewayBytes);

  async function answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const id = parseInt(request.url!.slice(1), 16);
    const data = new Uint8Array(gatewayBytes);
    pattern.produce(data, id, "request");
    const reply = await connection.call({ $typeName: "isthmus.bench.Payload", id: BigInt(id), data });
    response.writeHead(200, { "content-type": "application/octet-stream", "content-length": reply.data.length });
    // A copy: the reply's memory is the peer's again before the response has left.
    response.end(Buffer.from(reply.data));
    connection.free?.(reply);
  }

  const server = http.createServer((request, response) => void answer(request, response).catch(fail));
  await new Promise<void>((resolve, reject) => server.on("error", reject).listen(0, "127.0.0.1", resolve));
  return async (message) => {
    if (message.type === "port") send({ type: "port", port: (server.address() as AddressInfo).port });
    if (message.type === "usage") {
      const { user, system } = process.cpuUsage();
      send({ type: "usage", cpuMicros: user + system });
    }
    if (message.type === "stop") {
      await connection.close();
      process.exit(0);
    }
  };
});
