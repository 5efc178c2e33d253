/**
 * What is said of options that there are not, and of values that make no sense: for every function that takes options.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { TestService } from "../../../test/proto/test_pb.js";
import { channelTable, createIsthmusChannel } from "../../grpc-js/channel.js";
import { createBlockingClient } from "../client/blocking.js";
import { mapFile } from "../payloads/files.js";
import type { OptionTable } from "./check.js";
import { optionTables } from "./check.js";
import type { Rules } from "./kinds.js";
import * as tables from "./table.js";
import { loan } from "../payloads/payloads.js";
import { createIsthmusServer } from "../server/server.js";
import { createIsthmusTransport } from "../client/transport.js";

type Given = Record<string, unknown>;

const address = "/nowhere/app.sock";
const workers = { routes: "/nowhere/routes.js", count: 1 };
const routed = (options: Given) =>
  createIsthmusServer({ routes: (router) => void router.service(TestService, {}, options) });

/** Everything that takes options, called with some, and with what else it needs. */
const takers: [what: string, table: OptionTable, call: (options: Given) => unknown][] = [
  [
    "createIsthmusTransport, of a socket",
    tables.transportTable,
    (options) => createIsthmusTransport({ address, ...options }),
  ],
  [
    "createIsthmusTransport, of HTTP",
    tables.transportTable,
    (options) => createIsthmusTransport({ address: "http://127.0.0.1:1", ...options }),
  ],
  [
    "createIsthmusTransport, of a list",
    tables.transportTable,
    (options) => createIsthmusTransport({ address: [address, "tcp:127.0.0.1:1"], ...options }),
  ],
  [
    "transport.connect, of a socket",
    tables.connectTable,
    (options) => createIsthmusTransport({ address }).connect(options),
  ],
  [
    "transport.connect, of HTTP",
    tables.connectTable,
    (options) => createIsthmusTransport({ address: "http://127.0.0.1:1" }).connect(options),
  ],
  [
    "transport.connect, of a list",
    tables.connectTable,
    (options) => createIsthmusTransport({ address: [address] }).connect(options),
  ],
  [
    "transport.close, of a socket",
    tables.transportCloseTable,
    (options) => createIsthmusTransport({ address }).close(options),
  ],
  [
    "transport.close, of HTTP",
    tables.transportCloseTable,
    (options) => createIsthmusTransport({ address: "http://127.0.0.1:1" }).close(options),
  ],
  [
    "transport.close, of a list",
    tables.transportCloseTable,
    (options) => createIsthmusTransport({ address: [address] }).close(options),
  ],
  ["createIsthmusServer", tables.serverTable, (options) => createIsthmusServer({ routes: () => {}, ...options })],
  [
    "createIsthmusServer, with workers",
    tables.workerServerTable,
    (options) => createIsthmusServer({ workers, ...options }),
  ],
  [
    "server.listen",
    tables.listenTable,
    (options) => createIsthmusServer({ routes: () => {} }).listen(address, options),
  ],
  [
    "server.listen, with workers",
    tables.listenTable,
    (options) => createIsthmusServer({ workers }).listen(address, options),
  ],
  ["server.close", tables.serverCloseTable, (options) => createIsthmusServer({ routes: () => {} }).close(options)],
  ["server.close, with workers", tables.serverCloseTable, (options) => createIsthmusServer({ workers }).close(options)],
  ["router.service", tables.routeTable, routed],
  [
    "router.rpc",
    tables.routeTable,
    (options) =>
      createIsthmusServer({ routes: (router) => void router.rpc(TestService.method.echo, () => ({}), options) }),
  ],
  [
    "createBlockingClient",
    tables.blockingTable,
    (options) => createBlockingClient(TestService, { address, ...options }),
  ],
  [
    "a blocking client's calls",
    tables.blockingCallTable,
    (options) => createBlockingClient(TestService, { address }).echo({}, options),
  ],
  ["loan", tables.loanTable, (options) => loan(createGrpcTransport({ baseUrl: "http://127.0.0.1:1" }), 1, options)],
  ["mapFile", tables.mapFileTable, (options) => mapFile("/nowhere/file", options)],
  ["createIsthmusChannel", channelTable, (options) => createIsthmusChannel({ address, ...options })],
];

async function complaintOf(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof ConnectError, String(error));
    assert.equal(Code[error.code], "InvalidArgument", error.message);
    return error.rawMessage;
  }
  return assert.fail("it was taken");
}

/** Values of every type, of which no option takes all. */
const VALUES = [
  null,
  true,
  "yes",
  "5s",
  "",
  NaN,
  -1,
  0,
  1.5,
  660,
  2 ** 40,
  Infinity,
  5n,
  Symbol("s"),
  () => 1,
  {},
  [],
  [1],
  { a: 1 },
  Object.create(null) as object,
  new Map(),
  new AbortController(),
];

test("every function that takes options is tried", () => {
  const tried = new Set(takers.map(([, table]) => table.of));
  assert.deepEqual(
    optionTables.filter(({ of }) => !tried.has(of)),
    [],
  );
});

for (const [what, table, call] of takers) {
  test(`${what} refuses options that there are not, with what was meant`, async () => {
    assert.match(
      await complaintOf(() => call({ "no such option": 1 })),
      /option no such option: there is no such option; /,
    );
    for (const name of Object.keys(table.rules)) {
      const slip = name.length > 3 ? name.slice(0, -2) + name.at(-1)! + name.at(-2)! : name.toUpperCase();
      for (const wrong of [name.toUpperCase(), slip, name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)]) {
        if (wrong in table.rules) continue;
        const complaint = await complaintOf(() => call({ [wrong]: 1 }));
        assert.ok(complaint.includes(`option ${wrong}: there is no such option; did you mean ${name}?`), complaint);
      }
    }
  });

  test(`${what} refuses values of the wrong type by the option's name`, async () => {
    const tryAll = async (rules: Rules, path: string, wrap: (options: Given) => Given) => {
      for (const [name, { kind }] of Object.entries(rules)) {
        const wrong = VALUES.filter((value) => kind.complaint(value) !== undefined);
        assert.ok(
          wrong.length > 0 ||
            ["any", "string"].includes(kind.type) ||
            kind.type.startsWith("what") ||
            name === "address",
          `${path}${name} takes everything`,
        );
        for (const value of wrong) {
          const complaint = await complaintOf(() => call(wrap({ [name]: value })));
          assert.ok(
            complaint.includes(`option ${path}${name}: `),
            `${path}${name} = ${String(typeof value)}: ${complaint}`,
          );
        }
        if (kind.rules === undefined || (name === "workers" && table !== tables.workerServerTable)) continue;
        const needed = (path === "" && name === "workers" ? workers : {}) as Given;
        const inside = (options: Given) => wrap({ [name]: { ...needed, ...options } });
        assert.match(
          await complaintOf(() => call(inside({ nosuch: 1 }))),
          new RegExp(`option ${path}${name}\\.nosuch: there is no such option`),
        );
        await tryAll(kind.rules, `${path}${name}.`, inside);
      }
    };
    await tryAll(table.rules, "", (options) => options);
  });

  test(`${what} takes undefined for an option that is not given`, async () => {
    const nothing = Object.fromEntries(
      Object.entries(table.rules).flatMap(([name, rule]) => (rule.isRequired === true ? [] : [[name, undefined]])),
    );
    const refused = await Promise.resolve()
      .then(() => call(nothing))
      .then(
        () => undefined,
        (error: unknown) => error as ConnectError,
      );
    assert.notEqual(refused?.code, Code.InvalidArgument, refused?.message);
  });
}

test("what is no object of options is refused, with how to write it", async () => {
  assert.match(
    await complaintOf(() => createIsthmusTransport("unix:/run/app.sock" as never)),
    /createIsthmusTransport: expected an object of options, not "unix:\/run\/app\.sock"; did you mean \{ address: "unix:/,
  );
  for (const wrong of [undefined, null, 5, [], () => 1]) {
    assert.match(
      await complaintOf(() => createIsthmusTransport(wrong as never)),
      /createIsthmusTransport: expected an object of options, not/,
    );
    assert.match(
      await complaintOf(() => createIsthmusServer(wrong as never)),
      /createIsthmusServer: expected an object of options, not/,
    );
  }
});

test("names that others have are known", async () => {
  const transport = (options: Given) => complaintOf(() => createIsthmusTransport({ address, ...options }));
  const listen = (options: Given) =>
    complaintOf(() => createIsthmusServer({ routes: () => {} }).listen(address, options));
  assert.equal(
    await transport({ timeout: 5 }),
    "option timeout: there is no such option; did you mean defaultTimeoutMs?",
  );
  assert.equal(
    await transport({ readmaxbytes: 5 }),
    "option readmaxbytes: there is no such option; did you mean readMaxBytes?",
  );
  assert.equal(
    await transport({ intervalMs: 5 }),
    "option intervalMs: there is no such option; did you mean keepAlive.intervalMs?",
  );
  assert.equal(
    await transport({ keepAlive: { intervalms: 5 } }),
    "option keepAlive.intervalms: there is no such option; did you mean keepAlive.intervalMs?",
  );
  assert.equal(
    await transport({ mode: 0o600 }),
    "option mode: there is no such option; it is an option of server.listen",
  );
  assert.equal(
    await transport({ quux: 1 }),
    "option quux: there is no such option; docs/options.md lists the options of createIsthmusTransport",
  );
  assert.match(
    await listen({ permissions: 0o660 }),
    /option permissions: there is no such option; did you mean mode\?$/,
  );
  assert.match(
    await listen({ quux: 1 }),
    /option quux: there is no such option; server\.listen takes mode, gid, takeover, tls$/,
  );
});

test("values are corrected where it is plain what was meant", async () => {
  const transport = (options: Given) => complaintOf(() => createIsthmusTransport({ address, ...options }));
  const listen = (mode: unknown) =>
    complaintOf(() => createIsthmusServer({ routes: () => {} }).listen(address, { mode } as never));
  assert.match(
    await listen(660),
    /listen on \/nowhere\/app\.sock: option mode: expected permission bits from 0 to 0o777, not 660; did you mean 0o660\?$/,
  );
  for (const text of ["660", "0660", "0o660"]) assert.match(await listen(text), /did you mean 0o660\?$/);
  assert.match(await listen(0o1777), /not 1023$/);
  assert.match(
    await transport({ defaultTimeoutMs: "5s" }),
    /expected a number of milliseconds above 0, not "5s"; did you mean 5000\?$/,
  );
  assert.match(await transport({ defaultTimeoutMs: 5000n }), /not 5000n; did you mean 5000\?$/);
  for (const [value, shown] of [
    [-1, "-1"],
    [0, "0"],
    [NaN, "NaN"],
  ])
    assert.match(await transport({ defaultTimeoutMs: value }), new RegExp(`above 0, not ${shown}$`));
  assert.match(
    await transport({ polling: true }),
    /option polling: expected false, or an object such as \{ maxMicros: 200 \}, not true$/,
  );
  assert.match(await transport({ waitForReady: "yes" }), /option waitForReady: expected true or false, not "yes"$/);
  assert.match(
    await transport({ interceptors: {} }),
    /option interceptors: expected an array of interceptors, which are functions, not an object$/,
  );
  assert.match(await transport({ interceptors: () => 1 }), /not a function; put it into an array$/);
  assert.match(await transport({ interceptors: [() => 1, 5] }), /but item 1 is 5$/);
  assert.match(await transport({ carrier: "x".repeat(500) }), /expected "auto", "shm" or "socket", not "x{60}…"$/);
  assert.match(
    await complaintOf(() => createIsthmusServer({ routes: () => {}, shutdownSignal: new AbortController() as never })),
    /did you mean controller\.signal\?$/,
  );
});

test("options of Connect that concern HTTP only are taken where routes are registered, and grpc-js's where a channel is made", () => {
  routed({
    grpc: false,
    grpcWeb: true,
    connect: true,
    acceptCompression: [],
    compressMinBytes: 0,
    jsonOptions: {},
    maxTimeoutMs: 5,
    requestPathPrefix: "/api",
    requestGate: () => {},
    requireConnectProtocolHeader: true,
  });
  createIsthmusChannel({ address, ...({ "grpc.max_receive_message_length": -1 } as object) }).close();
});

test("what was checked is what is used: a getter is asked once, and later changes of the object change nothing", () => {
  let asked = 0;
  const options = {
    address,
    get defaultTimeoutMs() {
      return asked++ === 0 ? 5 : NaN;
    },
    keepAlive: { intervalMs: 5 },
  };
  const transport = createIsthmusTransport(options);
  assert.equal(asked, 1);
  const kept = (transport as unknown as { options: typeof options }).options;
  options.keepAlive.intervalMs = NaN;
  assert.equal(kept.defaultTimeoutMs, 5);
  assert.equal(kept.keepAlive.intervalMs, 5);
});

test("options may be inherited, and an inherited one that there is not is refused", async () => {
  class Settings {
    readonly address = address;
    get defaultTimeoutMs() {
      return -1;
    }
  }
  assert.match(await complaintOf(() => createIsthmusTransport(new Settings())), /option defaultTimeoutMs: /);
  assert.match(
    await complaintOf(() => createIsthmusTransport(Object.create({ address, timeout: 1 }) as never)),
    /option timeout: /,
  );
});

test("options of listen that mean nothing for an address are refused, so that nobody relies on them", async () => {
  const server = createIsthmusServer({ routes: () => {} });
  const listen = (at: string, options: Given) => complaintOf(() => server.listen(at, options));
  assert.equal(
    await listen("tcp:127.0.0.1:0", { tls: {} }),
    "listen on tcp:127.0.0.1:0: option tls is for https:// addresses",
  );
  assert.equal(await listen(address, { tls: {} }), `listen on ${address}: option tls is for https:// addresses`);
  assert.equal(
    await listen("tcp:127.0.0.1:0", { mode: 0o660 }),
    "listen on tcp:127.0.0.1:0: option mode is for socket paths",
  );
  assert.equal(
    await listen("http://127.0.0.1:0", { takeover: true }),
    "listen on http://127.0.0.1:0: option takeover is for socket paths",
  );
});
