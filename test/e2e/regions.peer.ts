/** A process that keeps what it is sent, or sends a region and is killed. */
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport, region, release } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { crc32 } from "../support/checksum.js";
import { answerParent, childData } from "../support/processes.js";
import { ownDescriptors } from "../support/resources.js";
import type { RegionsPeerData } from "./regions.test.js";

const { role, path } = childData<RegionsPeerData>();
let kept: Uint8Array | undefined;

if (role === "keep") {
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(TestService, {
        echo(request) {
          kept = request.data;
          return { number: BigInt(kept.length), text: String(crc32(kept.subarray(0, 4096))) };
        },
      }),
  });
  await server.listen(path);
  answerParent({
    byteAt: (at: number) => kept![at],
    checksum: () => crc32(kept!),
    write: (byte: number) => void kept!.fill(byte),
    drop: () => release(kept!),
    resources: () => ownDescriptors(),
    connections: () => server.stats().connections,
  });
} else {
  // Until it is killed.
  setInterval(() => undefined, 60_000);
  const client = createClient(TestService, createIsthmusTransport({ address: path }));
  answerParent({
    async send(byteLength: number) {
      const bytes = await region(byteLength);
      bytes.fill(7);
      await client.echo({ data: bytes });
      kept = bytes;
    },
  });
}
