/** A server whose handler makes text of what it receives, and of a loan of its own, as a careless handler would. */
import { createIsthmusServer, loan } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { obey } from "../stress/peer.js";

obey({
  async listen(path: string) {
    await createIsthmusServer({
      isolation: "snapshot",
      routes: ({ service }) =>
        service(TestService, {
          async echo({ data }, context) {
            const own = await loan(context, data.length);
            own.set(data);
            const textOf = ({ buffer, byteOffset, length }: Uint8Array) =>
              Buffer.from(buffer, byteOffset, length).toString();
            return { text: String(textOf(data).length + textOf(own).length) };
          },
        }),
    }).listen(path);
  },
});
