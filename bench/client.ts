/** A client's process: `client.js PEER PATH NUMBER CONNECTIONS`. */
import { firstId } from "./answer.js";
import { numberOf, runChild, send } from "./child.js";
import { LoadGenerator } from "./load.js";
import { loadPeer, type Connection, type NodePeerName, type Peer } from "./peers/peer.js";

runChild(async ([name, path, number, count]) => {
  const peer = await loadPeer(name as NodePeerName);
  const wanted = numberOf(count, "CONNECTIONS");
  const connections = wanted === 1 ? [await peer.connect(path)] : await connectMany(peer, path, wanted);
  const generator = new LoadGenerator(connections, numberOf(number, "NUMBER"));
  return async (message) => {
    if (message.type === "run") {
      send({ type: "stretch", stretch: await generator.run(message.load) });
    } else if (message.type === "stop") {
      await Promise.all(connections.map((connection) => connection.close()));
      process.exit(0);
    }
  };
});

/**
 * One connection after the other, since a listener's queue is short, and each with a call, since some peers connect
 * with the first one.
 */
async function connectMany(peer: Peer, path: string, count: number): Promise<Connection[]> {
  const connections: Connection[] = [];
  while (connections.length < count) {
    const connection = await peer.connect(path);
    const id = BigInt(firstId(0, connections.length));
    const reply = await connection.call({ $typeName: "isthmus.bench.Payload", id, data: new Uint8Array(0) });
    connection.free?.(reply);
    connections.push(connection);
  }
  return connections;
}
