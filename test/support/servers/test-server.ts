/** A process that serves the test services. Its data: {@link TestServerData}. */
import { createIsthmusServer } from "../../../src/index.js";
import { answerParent, childData } from "../processes.js";
import type { Descriptors } from "../resources.js";
import { ownDescriptors } from "../resources.js";
import { observations, testRoutes } from "../test-service.js";
import type { TestServerData } from "../test-server.js";

const { address, options, listen, allowAll } = childData<TestServerData>();
const server = createIsthmusServer({
  ...options,
  routes: testRoutes,
  ...(allowAll === true ? { allow: () => true } : {}),
});
await server.listen(address, listen);

answerParent({
  stats: () => server.stats(),
  observations: () => observations,
  async close(timeoutMs: number | undefined) {
    await server.close(timeoutMs === undefined ? {} : { timeoutMs });
    // Nobody may ask any more: the process ends.
    return observations.length;
  },
  resources(): Descriptors {
    (globalThis as { gc?: () => void }).gc?.();
    return ownDescriptors();
  },
  block(milliseconds: number) {
    const end = performance.now() + milliseconds;
    while (performance.now() < end);
  },
});
