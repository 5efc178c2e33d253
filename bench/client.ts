/** A client's process: `client.js PEER PATH NUMBER`. */
import { runChild, send } from "./child.js";
import { LoadGenerator } from "./load.js";
import { loadPeer, type PeerName } from "./peers/peer.js";

runChild(async ([name, path, number]) => {
  const peer = await loadPeer(name as PeerName);
  const connection = await peer.connect(path);
  const generator = new LoadGenerator(connection, Number(number));
  return async (message) => {
    if (message.type === "run") {
      send({ type: "stretch", stretch: await generator.run(message.load) });
    } else if (message.type === "stop") {
      await connection.close();
      process.exit(0);
    }
  };
});
