/** What the running Node has behind a `net.Socket`, as far as sockets are read and written past Node's own buffers. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { fstatSync, writeSync } from "node:fs";
import type { Server } from "node:net";
import { connect, createServer, Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { otherRuntime } from "../../os/runtime.js";
import { tempFolder } from "../../../test/support/temp.js";
import { waitUntil } from "../../../test/support/waiting.js";
import { descriptorOf, takeHandle } from "./node-handle.js";

const skip = otherRuntime !== undefined && "only Node's own sockets have handles that are used";

async function pair(context: TestContext): Promise<{ server: Server; accepted: Socket; raw: Socket }> {
  const path = join(tempFolder(context), "s");
  const server = createServer({ pauseOnConnect: true }).listen(path);
  await once(server, "listening");
  const connection = once(server, "connection") as Promise<[Socket]>;
  const raw = connect(path);
  const [accepted] = await connection;
  context.after(() => {
    accepted.destroy();
    raw.destroy();
    server.close();
  });
  return { server, accepted, raw };
}

test("a connected socket's descriptor is found, and bytes written to it reach the peer", { skip }, async (context) => {
  const { accepted, raw } = await pair(context);
  const descriptor = descriptorOf(accepted);
  assert.ok(fstatSync(descriptor).isSocket());
  writeSync(descriptor, "past Node");
  const [chunk] = (await once(raw, "data")) as [Buffer];
  assert.equal(chunk.toString(), "past Node");
});

test("a socket that is not connected, or was destroyed, has no descriptor", { skip }, async (context) => {
  assert.equal(descriptorOf(new Socket()), -1);
  const { accepted } = await pair(context);
  await once(accepted.destroy(), "close");
  assert.equal(descriptorOf(accepted), -1);
});

test("the handle of an accepted socket makes a socket that reads where it is told and writes", {
  skip,
}, async (context) => {
  const { server, accepted, raw } = await pair(context);
  const handle = takeHandle(accepted);
  assert.ok(handle !== undefined);
  const memory = new Uint8Array(16);
  let received = 0;
  const onread = { buffer: memory, callback: (byteLength: number) => ((received = byteLength), true) };
  const options = { handle, readable: true, writable: true, pauseOnCreate: true, onread };
  const socket = new Socket(options);
  context.after(() => socket.destroy());
  assert.ok(fstatSync(descriptorOf(socket)).isSocket());
  raw.write("hello");
  socket.resume();
  await waitUntil("bytes in the memory named", () => received === 5);
  assert.equal(Buffer.from(memory.subarray(0, 5)).toString(), "hello");
  socket.write("answer");
  const [chunk] = (await once(raw, "data")) as [Buffer];
  assert.equal(chunk.toString(), "answer");
  // The server waits for the new socket no more than it waits for any other that is gone.
  assert.equal(accepted.destroyed, true);
  server.close();
  await once(server, "close");
});

test("a handle that lacks what is needed stays with its socket", { skip }, async (context) => {
  const { accepted } = await pair(context);
  const { _handle: handle } = accepted as unknown as { _handle: { writev: unknown } };
  handle.writev = undefined;
  assert.equal(takeHandle(accepted), undefined);
  assert.equal(accepted.destroyed, false);
  assert.equal(takeHandle(new Socket()), undefined);
});

test("what looks like a descriptor but is none is not taken for one", { skip }, () => {
  for (const fd of [undefined, null, "3", -1, 1.5, Number.NaN]) {
    const socket = { _handle: { fd } } as unknown as Socket;
    assert.equal(descriptorOf(socket), -1, String(fd));
  }
  assert.equal(descriptorOf({} as Socket), -1);
  assert.equal(descriptorOf({ _handle: null } as unknown as Socket), -1);
});
