/** A process that serves the handlers of `bytes-service`. Its data: {@link BytesServerData}. */
import { createIsthmusServer } from "../../../src/index.js";
import { bytesRoutes, bytesSeen } from "../bytes-service.js";
import { answerParent, childData } from "../processes.js";

export interface BytesServerData {
  readonly address: string;
  readonly leases?: "scoped" | "collected" | "copied";
}

const { address, leases } = childData<BytesServerData>();
const server = createIsthmusServer({ routes: bytesRoutes, ...(leases === undefined ? {} : { leases }) });
const listening = await server.listen(address);

answerParent({
  address: () => listening.address,
  seen: () => bytesSeen(),
  block(milliseconds: number) {
    const end = performance.now() + milliseconds;
    while (performance.now() < end);
  },
});
