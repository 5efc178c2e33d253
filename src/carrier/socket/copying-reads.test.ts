/** A socket that is read by copying brings its reader the same, in the same order, as one that is read in place. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { createServer } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { HandshakeMessage } from "../../wire/hello.js";
import { encodeHandshake } from "../../wire/hello.js";
import { StreamSocket } from "./stream-socket.js";
import { tempFolder } from "../../../test/support/temp.js";
import { waitUntil } from "../../../test/support/waiting.js";

const HELLO: HandshakeMessage = {
  kind: "hello",
  minVersion: 1,
  maxVersion: 1,
  featuresSupported: 0,
  featuresRequired: 0,
  maxStreams: 1,
};
const TOTAL_BYTES = 400_000;
const never = new AbortController().signal;

/** The end that is tested, and the other one, over a path or TCP; the tested one connects or is accepted. */
async function pair(
  context: TestContext,
  readsInPlace: boolean,
  kind: "connected" | "accepted",
): Promise<{ stream: StreamSocket; raw: Socket }> {
  const path = join(tempFolder(context), "s");
  const server = createServer({ pauseOnConnect: kind === "accepted" }).listen(path);
  context.after(() => server.close());
  await once(server, "listening");
  const accepted = once(server, "connection") as Promise<[Socket]>;
  if (kind === "connected") {
    const stream = await StreamSocket.connect({ kind: "unix", path }, never, readsInPlace);
    return { stream, raw: (await accepted)[0] };
  }
  const { connect } = await import("node:net");
  const raw = connect(path);
  const [socket] = await accepted;
  return { stream: StreamSocket.accept(socket, readsInPlace), raw };
}

for (const readsInPlace of [true, false]) {
  for (const kind of ["connected", "accepted"] as const) {
    const what = `a socket that was ${kind} and is read ${readsInPlace ? "in place" : "by copying"}`;

    test(`${what} brings the greeting, and what comes right behind it, to targets of any size and with pauses`, async (context) => {
      const { stream, raw } = await pair(context, readsInPlace, kind);
      context.after(() => (stream.close(), raw.destroy()));
      const sent = Buffer.from(new Uint8Array(TOTAL_BYTES).map((_, at) => (at * 31 + (at >> 8)) & 255));
      raw.write(Buffer.concat([encodeHandshake(HELLO), sent.subarray(0, 3)]));
      assert.equal((await stream.receive([], never)).kind, "hello");
      await nextTurn();

      const received: Buffer[] = [];
      let bytes = 0;
      let asked = 0;
      let target: Uint8Array = stream.chunk;
      let paused = false;
      let gone = 0;
      stream.attach(
        {
          target: () => (target = new Uint8Array([1, 7, 100, 16_384, 65_536][asked++ % 5])),
          received(byteLength) {
            assert.ok(!paused, "no more comes after a pause");
            received.push(Buffer.from(target.slice(0, byteLength)));
            bytes += byteLength;
            paused = asked % 3 === 0;
            if (paused) setImmediate(() => ((paused = false), stream.resume()));
            return !paused;
          },
        },
        () => {
          gone++;
          assert.equal(bytes, TOTAL_BYTES, "the end is told after all that came before it");
        },
      );
      // The first bytes come where it was said before there was a reader (STREAM-SOCKET-1).
      for (let at = 3, size = 1; at < TOTAL_BYTES; at += size, size = (size * 7 + 3) % 50_000)
        raw.write(sent.subarray(at, at + size));
      raw.end();
      await waitUntil("the end", () => gone > 0);
      assert.equal(Buffer.compare(Buffer.concat(received), sent), 0);
      assert.equal(stream.socket.listenerCount("data"), readsInPlace ? 0 : 1);
    });

    test(`${what} is told off with a last message, also if it has sent much that nobody reads`, async (context) => {
      const { stream, raw } = await pair(context, readsInPlace, kind);
      context.after(() => (stream.close(), raw.destroy()));
      raw.on("error", () => {});
      raw.write(Buffer.concat([encodeHandshake(HELLO), Buffer.alloc(1 << 20)]));
      await stream.receive([], never);
      stream.refuse({ kind: "refused", code: 7, message: "not you" });
      const answer: Buffer[] = [];
      for await (const chunk of raw) answer.push(chunk as Buffer);
      assert.match(Buffer.concat(answer).toString("latin1"), /not you$/);
      await waitUntil("its end", () => stream.socket.destroyed);
    });
  }
}

test("an accepted socket without a handle that can be read in place is read by copying", async (context) => {
  const path = join(tempFolder(context), "s");
  const server = createServer({ pauseOnConnect: true }).listen(path);
  context.after(() => server.close());
  await once(server, "listening");
  const accepted = once(server, "connection") as Promise<[Socket]>;
  const { connect } = await import("node:net");
  const raw = connect(path);
  const [socket] = await accepted;
  // As a runtime, or a later Node, may have it.
  (socket as unknown as { _handle: { writev: unknown } })._handle.writev = undefined;
  const stream = StreamSocket.accept(socket);
  context.after(() => (stream.close(), raw.destroy()));
  assert.equal(stream.socket, socket);
  raw.write(encodeHandshake(HELLO));
  assert.equal((await stream.receive([], never)).kind, "hello");
});
