// What must hold in every test runner, whatever it has faked. A case throws if it does not.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { fork } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Code, createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "isthmus";
import { answerWaiting, Echo, implementation } from "./echo.mjs";

const folder = mkdtempSync(join(tmpdir(), "isthmus-runners-"));
let sockets = 0;
const bytes = (count) => Uint8Array.from({ length: count }, (_, i) => i);

async function* items(count) {
  for (let i = 0; i < count; i++) yield { value: Uint8Array.of(i) };
}

async function inOneProcess(carrier) {
  const server = createIsthmusServer({ routes: (router) => router.service(Echo, implementation) });
  const { address } = await server.listen(
    { tcp: "tcp:127.0.0.1:0", http: "http://127.0.0.1:0" }[carrier] ?? join(folder, `${++sockets}.sock`),
  );
  const transport = createIsthmusTransport({
    address,
    ...(carrier === "shm" || carrier === "socket" ? { carrier } : {}),
  });
  const close = async () => {
    await transport.close();
    await server.close({ timeoutMs: 0 });
  };
  return { client: createClient(Echo, transport), close };
}

async function inTwoProcesses(carrier) {
  const address = join(folder, `${++sockets}.sock`);
  const child = fork(fileURLToPath(new URL("./server.mjs", import.meta.url)), [address], { execArgv: [] });
  await once(child, "message");
  const transport = createIsthmusTransport({ address, carrier });
  const close = async () => {
    await transport.close();
    child.kill("SIGKILL");
  };
  return { client: createClient(Echo, transport), close };
}

/** A call of every kind, with small and large messages. */
export async function callAll(client) {
  for (const length of [3, 100_000]) {
    const { value } = await client.unary({ value: bytes(length) });
    assert.deepEqual([value.length, value[2]], [length, 2]);
  }
  let count = 0;
  for await (const { value } of client.count({ value: bytes(5) })) assert.equal(value[0], count++);
  assert.equal(count, 5);
  for await (const { value } of client.chat(items(5))) assert.equal(value[0], --count >= 0 ? 4 - count : -1);
  assert.deepEqual([...(await client.join(items(5))).value], [0, 1, 2, 3, 4]);
}

async function failure(promise, code) {
  const error = await promise.then(
    () => undefined,
    (reason) => reason,
  );
  assert.equal(Code[error?.code], Code[code], String(error));
}

const carriers = ["shm", "socket", "tcp"];
const every = [
  ...carriers.map((carrier) => [`${carrier}, one process`, () => inOneProcess(carrier)]),
  ["shm, two processes", () => inTwoProcesses("shm")],
  ["socket, two processes", () => inTwoProcesses("socket")],
];

/**
 * Defines the cases with a runner's `test`. `fake` fakes what the runner can, also if it has done so already; `restore`
 * takes that back.
 * @param faked whether everything is faked already, since before isthmus was loaded
 */
export function define({ test, fake, restore, faked }) {
  for (const [where, start] of every) {
    test(`calls are answered while timers are faked, and deadlines pass by real time: ${where}`, async () => {
      if (!faked) await fake();
      const { client, close } = await start();
      await callAll(client);
      await failure(client.wait({}, { timeoutMs: 50 }), Code.DeadlineExceeded);
      await callAll(client);
      if (!faked) await restore();
      await close();
    });

    test(`connections go on when timers are faked, and when they are real again: ${where}`, async () => {
      if (faked) await restore();
      const { client, close } = await start();
      await callAll(client);
      await fake();
      await callAll(client);
      await failure(client.wait({}, { timeoutMs: 50 }), Code.DeadlineExceeded);
      await restore();
      await callAll(client);
      await close();
      if (faked) await fake();
    });
  }

  for (const carrier of carriers) {
    test(`a call that is open when timers are faked, and when they are real again, is answered: ${carrier}`, async () => {
      if (faked) await restore();
      const { client, close } = await inOneProcess(carrier);
      const before = client.wait({ value: bytes(3) });
      await client.unary({});
      await fake();
      await client.unary({});
      answerWaiting();
      assert.equal((await before).value.length, 3);
      const during = client.wait({ value: bytes(4) });
      await client.unary({});
      await restore();
      await client.unary({});
      answerWaiting();
      assert.equal((await during).value.length, 4);
      await close();
      if (faked) await fake();
    });
  }

  test("who waits for a server that comes later is served while timers are faked", async () => {
    if (!faked) await fake();
    const address = join(folder, `${++sockets}.sock`);
    const transport = createIsthmusTransport({ address, waitForReady: true });
    const call = createClient(Echo, transport).unary({ value: bytes(3) });
    await failure(createClient(Echo, createIsthmusTransport({ address })).unary({}), Code.Unavailable);
    const server = createIsthmusServer({ routes: (router) => router.service(Echo, implementation) });
    await server.listen(address);
    assert.equal((await call).value.length, 3);
    await transport.close();
    await server.close({ timeoutMs: 0 });
    if (!faked) await restore();
  });

  if (faked) return;

  test("calls over HTTP are answered while timers are faked; their deadlines are Connect's", async () => {
    const { client, close } = await inOneProcess("http");
    await callAll(client);
    await fake();
    await callAll(client);
    await restore();
    await callAll(client);
    await close();
  });
}

/** A server that is not there, is no socket, or is there already is told by its own error. */
export async function errorsAreKnown() {
  await failure(
    createClient(Echo, createIsthmusTransport({ address: join(folder, "nobody.sock") })).unary({}),
    Code.Unavailable,
  );
  await failure(
    createClient(Echo, createIsthmusTransport({ address: join(folder, "below", "nobody.sock") })).unary({}),
    Code.Unavailable,
  );
  const address = join(folder, `${++sockets}.sock`);
  const [first, second] = [1, 2].map(() => createIsthmusServer({ routes: () => undefined }));
  await first.listen(address);
  await failure(second.listen(address), Code.AlreadyExists);
  await first.close();
  await second.close();
}

export async function callOverSharedMemory() {
  const { client, close } = await inOneProcess("shm");
  await callAll(client);
  await failure(client.wait({}, { timeoutMs: 50 }), Code.DeadlineExceeded);
  await close();
}
