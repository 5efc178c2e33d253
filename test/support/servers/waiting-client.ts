/** A process with calls of `Wait` that are not answered soon. Its data: {@link WaitingClientData}. */
import { writeFileSync } from "node:fs";
import { createClient } from "@connectrpc/connect";
import { createIsthmusTransport } from "../../../src/index.js";
import { TestService } from "../../proto/test_pb.js";
import { answerParent, childData } from "../processes.js";

export interface WaitingClientData {
  readonly address: string;
  readonly carrier: "shm" | "socket";
}

const transport = createIsthmusTransport(childData<WaitingClientData>());
const client = createClient(TestService, transport);
const failures: string[] = [];
// It is there until it is killed, or its test is gone.
setInterval(() => undefined, 60_000);

answerParent({
  async call() {
    await client.echo({});
  },
  open(count: number) {
    for (let i = 0; i < count; i++)
      client.wait({ milliseconds: 60_000 }).catch((error: unknown) => failures.push(String(error)));
  },
  /** Before anything that has arrived is read; from the moment on at which there is a file `mark`. */
  async blockThenCall({ milliseconds, mark }: { milliseconds: number; mark: string }) {
    writeFileSync(mark, "");
    const end = performance.now() + milliseconds;
    while (performance.now() < end);
    return (await client.echo({ text: "late" })).text;
  },
  failures: () => failures,
});
