/** A server that says how long a request's bytes are, and what is at three places of them. */
import { createIsthmusServer } from "../../../src/index.js";
import { TestService } from "../../proto/test_pb.js";
import { answerParent, childData } from "../processes.js";

const { address } = childData<{ address: string }>();
const server = createIsthmusServer({
  routes: (router) =>
    router.service(TestService, {
      echo: ({ data }) => ({
        text: [
          data.length,
          ...[0, 12_345_678, data.length - 4].map((at) => Buffer.from(data.subarray(at, at + 4)).toString()),
        ].join(" "),
      }),
    }),
});
await server.listen(address);
answerParent({});
