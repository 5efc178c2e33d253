import type { ConnectRouter } from "@connectrpc/connect";
import { GreeterService } from "../proto/greeter_pb.js";

/** The service: what the server does. */
export function routes(router: ConnectRouter): void {
  router.service(GreeterService, {
    greet: ({ name }) => ({ text: `Hello, ${name}!` }),
    async *countDown({ from }) {
      for (let number = from; number > 0; number--) yield { number };
    },
  });
}
