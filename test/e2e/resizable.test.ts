/** Messages whose memory shrinks while they are sent: that is their call's matter, and nobody else's. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { tempSocket } from "../support/temp.js";

/** TypeScript's library for Node 20 does not have these yet. */
interface Resizable extends ArrayBuffer {
  resize(byteLength: number): void;
}
const makeResizable = (byteLength: number) =>
  new (ArrayBuffer as unknown as new (byteLength: number, options: { maxByteLength: number }) => Resizable)(
    byteLength,
    { maxByteLength: byteLength },
  );

const WHEN = [
  "before its field is read",
  "after its field was read",
  "right after the call",
  "while others are sent first",
] as const;

for (const [carrier, skip] of [
  ["shm", onlyWithAddon],
  ["socket", false],
] as const) {
  describe(`a resizable ArrayBuffer that shrinks, over ${carrier}`, { skip }, () => {
    for (const when of WHEN) {
      test(when, async (context) => {
        const path = tempSocket(context);
        // Whatever arrives is either what was there, or shorter, but never anything else.
        const server = createIsthmusServer({
          routes: (router) =>
            router.service(StreamService, {
              echo: ({ data }) => ({ text: `${Buffer.compare(data, Buffer.alloc(data.length, 7)) === 0}` }),
            }),
        });
        await server.listen(path);
        context.after(() => server.close({ timeoutMs: 0 }));
        const transport = createIsthmusTransport({ address: path, carrier });
        context.after(() => transport.close());
        const client = createClient(StreamService, transport);
        for (const byteLength of [3000, 20_000, 200_000, 5_000_000]) {
          for (const left of [0, 10, 4096]) {
            const others =
              when === "while others are sent first"
                ? Array.from({ length: 8 }, () => client.echo({ data: new Uint8Array(4_000_000).fill(7) }))
                : [];
            const buffer = makeResizable(byteLength);
            const data = new Uint8Array(buffer).fill(7);
            const shrink = () => buffer.resize(Math.min(left, byteLength));
            const message = {
              get text() {
                if (when === "before its field is read") shrink();
                return "";
              },
              data,
              get values() {
                if (when === "after its field was read") shrink();
                return [];
              },
            };
            const call = client.echo(message).then(
              ({ text }) => text,
              (error: unknown) => (error as Error).message,
            );
            if (when === "right after the call" || when === "while others are sent first") shrink();
            assert.match(await call, /^true$|lost their memory/, `${byteLength} bytes, of which ${left} are left`);
            for (const other of await Promise.all(others)) assert.equal(other.text, "true");
            assert.equal((await client.echo({})).text, "true");
            assert.equal(transport.stats().connections, 1);
          }
        }
      });
    }
  });
}
