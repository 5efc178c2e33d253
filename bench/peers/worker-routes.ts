/** What the workers of the peers `isthmus-1-worker` and `isthmus-4-workers` serve: the same as every peer. */
import type { ConnectRouter } from "@connectrpc/connect";
import { createAnswer } from "../answer.js";
import { EchoService, type Payload } from "../proto/bench_pb.js";

const answer = createAnswer();

function echo(request: Payload): Payload {
  try {
    return answer(request);
  } catch (error) {
    // Ends the worker, so that the run fails loudly.
    setImmediate(() => {
      throw error;
    });
    throw error;
  }
}

export const routes = (router: ConnectRouter) => void router.service(EchoService, { echo });
