/** The server thread of the `worker` peer. */
import { parentPort } from "node:worker_threads";
import { createAnswer } from "../answer.js";
import type { Payload } from "../proto/bench_pb.js";

const port = parentPort!;
const answer = createAnswer();
port.on("message", (request: Payload) => port.postMessage(answer(request)));
port.postMessage("ready");
