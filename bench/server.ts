/** A server's process: `server.js PEER PATH WAIT_MS`. */
import { setTimeout as sleep } from "node:timers/promises";
import { createAnswer } from "./answer.js";
import { fail, numberOf, runChild, send } from "./child.js";
import { loadPeer, type Answer, type Handler, type NodePeerName } from "./peers/peer.js";

runChild(async ([name, path, waitMs]) => {
  const peer = await loadPeer(name as NodePeerName);
  const answer = createAnswer();
  const orFail: Answer = (request) => {
    try {
      return answer(request);
    } catch (error) {
      // Said here as well as thrown: not every peer carries errors to its client.
      fail(error);
      throw error;
    }
  };
  const wait = numberOf(waitMs, "WAIT_MS");
  const server = await peer.startServer(path, wait === 0 ? orFail : waiting(orFail, wait));
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

function waiting(answer: Answer, waitMs: number): Handler {
  return async (request) => {
    const reply = answer(request);
    await sleep(waitMs);
    return reply;
  };
}
