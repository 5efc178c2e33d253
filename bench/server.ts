/** A server's process: `server.js PEER PATH`. */
import { createAnswer } from "./answer.js";
import { fail, runChild, send } from "./child.js";
import { loadPeer, type PeerName } from "./peers/peer.js";

runChild(async ([name, path]) => {
  const peer = await loadPeer(name as PeerName);
  const answer = createAnswer();
  const server = await peer.startServer(path, (request) => {
    try {
      return answer(request);
    } catch (error) {
      // Said here as well as thrown: not every peer carries errors to its client.
      fail(error);
      throw error;
    }
  });
  return async (message) => {
    if (message.type === "usage") {
      const { user, system } = process.cpuUsage();
      send({ type: "usage", cpuMicros: user + system });
    } else if (message.type === "stop") {
      await server.close();
      process.exit(0);
    }
  };
});
