/** What stands between a client and a server: each case ends with an error that says what it is and what to do. */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { PATH_BYTES_MAX } from "../../src/carrier/address.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { decodeHandshake, encodeHandshake, FEATURE } from "../../src/wire/hello.js";
import { serveHttp, serveRaw, serveSilently } from "../support/other-servers.js";
import { runScriptOk } from "../support/processes.js";
import { ownDescriptors } from "../support/resources.js";
import { tempFolder, tempSocket } from "../support/temp.js";
import type { Owner } from "../support/temp.js";
import { HAS_CREDENTIALS } from "../support/carriers.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

const root = process.getuid!() === 0;
const skip = !root
  ? "only root can become another user"
  : !HAS_CREDENTIALS
    ? "without the addon nobody is known by their user"
    : false;
const NOBODY = 65534;
const SOMEBODY = 12345;

describe("a path", () => {
  const refused = async (owner: Owner, path: string, code: Code, message: RegExp) => {
    const error = await failure(connectTo(owner, { path }).client.echo({}), code, message);
    assert.ok(error.message.includes(`connect to ${path}:`), error.message);
  };

  test("that does not exist", async (context) => {
    await refused(context, join(tempFolder(context), "none"), Code.Unavailable, /no such path; is the server running/);
  });

  test("whose folder does not exist", async (context) => {
    await refused(context, join(tempFolder(context), "none", "none"), Code.Unavailable, /no such path/);
  });

  test("that leads through a file", async (context) => {
    const file = join(tempFolder(context), "file");
    writeFileSync(file, "");
    await refused(context, join(file, "below"), Code.Unavailable, /not a directory/);
  });

  test("that is a regular file", async (context) => {
    const file = join(tempFolder(context), "file");
    writeFileSync(file, "");
    await refused(context, file, Code.Unavailable, /not a socket/);
  });

  test("that is a directory", async (context) => {
    await refused(context, tempFolder(context), Code.Unavailable, /not a socket/);
  });

  test("of a socket that nobody listens on any more", async (context) => {
    const server = await serveInChild(context);
    await server.child.kill();
    await refused(context, server.path, Code.Unavailable, /nobody listens there; the server has stopped/);
  });

  test("of an HTTP server", async (context) => {
    const { path } = await serveHttp(context);
    await refused(context, path, Code.Unavailable, /is this the socket of an Isthmus peer\?/);
  });

  test("of a server that closes at once", async (context) => {
    const { path } = await serveRaw(context, (socket) => socket.destroy());
    await refused(context, path, Code.Unavailable, /closed the connection|reset|hung up|ECONNRESET/i);
  });

  test("of a server that reads the greeting and closes", async (context) => {
    const { path } = await serveRaw(context, (socket) => socket.once("data", () => socket.end()));
    await refused(context, path, Code.Unavailable, /the peer closed the connection/);
  });

  test("of a server that never answers", async (context) => {
    const { path } = await serveSilently(context);
    const { client } = connectTo(context, { path }, { handshakeTimeoutMs: 100 });
    await failure(
      client.echo({}),
      Code.Unavailable,
      /no answer to the handshake within 100 ms; is this an Isthmus server/,
    );
  });

  test("of a server that sends half an answer", async (context) => {
    const accepted = encodeHandshake({ kind: "accepted", version: 1, features: 0, maxStreams: 1 });
    const { path } = await serveRaw(context, (socket) => socket.write(accepted.subarray(0, 13)));
    const { client } = connectTo(context, { path }, { handshakeTimeoutMs: 100 });
    await failure(client.echo({}), Code.Unavailable, /no answer to the handshake within 100 ms/);
  });

  test("of a server that answers in another language", async (context) => {
    const { path } = await serveRaw(context, (socket) => socket.write("220 mail.example.com ESMTP\r\n"));
    await refused(context, path, Code.Unavailable, /not an Isthmus handshake.*is this the socket of an Isthmus peer/);
  });

  test("of a server that chose a protocol version that this client does not have", async (context) => {
    const { path } = await serveRaw(context, (socket) =>
      socket.write(encodeHandshake({ kind: "accepted", version: 99, features: 0, maxStreams: 1 })),
    );
    await refused(context, path, Code.Unavailable, /protocol version 99, which this client does not speak/);
  });

  test("of a server that greets instead of answering", async (context) => {
    const hello = encodeHandshake({
      kind: "hello",
      minVersion: 1,
      maxVersion: 1,
      featuresSupported: 0,
      featuresRequired: 0,
      maxStreams: 1,
    });
    const { path } = await serveRaw(context, (socket) => socket.write(hello));
    await refused(context, path, Code.Unavailable, /with a greeting of its own/);
  });

  test("of a server that welcomes with shared memory, but without its descriptors", async (context) => {
    const { path } = await serveRaw(context, (socket) =>
      socket.write(encodeHandshake({ kind: "accepted", version: 1, features: FEATURE.sharedMemory, maxStreams: 1 })),
    );
    await refused(context, path, Code.Unavailable, /0 descriptors|features 0x1, which this client did not offer/);
  });

  test("of a server that chose features that were not offered", async (context) => {
    const { path } = await serveRaw(context, (socket) =>
      socket.write(encodeHandshake({ kind: "accepted", version: 1, features: 0x40000000, maxStreams: 1 })),
    );
    await refused(context, path, Code.Unavailable, /features 0x40000000, which this client did not offer/);
  });

  test("of a server that refuses", async (context) => {
    const { path } = await serveRaw(context, (socket) =>
      socket.write(encodeHandshake({ kind: "refused", code: Code.PermissionDenied, message: "not you" })),
    );
    await refused(context, path, Code.PermissionDenied, /not you/);
  });

  test("of a server that refuses before it was greeted", async (context) => {
    const { path } = await serveRaw(context, (socket) =>
      socket.end(encodeHandshake({ kind: "refused", code: Code.PermissionDenied, message: "not you" })),
    );
    for (let i = 0; i < 10; i++) await refused(context, path, Code.PermissionDenied, /not you/);
  });

  test("none of these leaves a descriptor or mapping behind", async (context) => {
    const answers = [
      encodeHandshake({ kind: "accepted", version: 1, features: FEATURE.sharedMemory, maxStreams: 1 }),
      encodeHandshake({ kind: "refused", code: Code.PermissionDenied, message: "not you" }),
      Buffer.from("garbage, and more than sixteen bytes of it"),
      new Uint8Array(8),
    ];
    let next = 0;
    const { path } = await serveRaw(context, (socket) =>
      next % 5 === 4 ? socket.destroy() : socket.write(answers[next % 5]),
    );
    const attempt = () =>
      assert.rejects(connectTo(context, { path }, { handshakeTimeoutMs: 50 }).client.echo({}), ConnectError);
    await attempt();
    const before = ownDescriptors();
    for (next = 0; next < 20; next++) await attempt();
    await waitUntil("descriptors and mappings to be gone", () => {
      const now = ownDescriptors();
      return (now.open <= before.open + 1 && now.mappings <= before.mappings) || JSON.stringify({ now, before });
    });
  });
});

describe("an address", () => {
  const wrong: [address: unknown, message: RegExp][] = [
    ["", /expected a socket path, unix:PATH/],
    ["unix:", /the path is empty/],
    ["http://", /this is not a URL; for example/],
    ["http://localhost:99999", /this is not a URL/],
    ["tcp:localhost", /expected tcp:HOST:PORT/],
    ["ftp://x", /unknown scheme "ftp"; expected a socket path, unix:PATH, tcp/],
    ["/tmp/zero\0byte", /zero byte/],
    [
      `/tmp/${"x".repeat(PATH_BYTES_MAX - 4)}`,
      new RegExp(`the path has ${PATH_BYTES_MAX + 1} bytes, but Unix sockets allow ${PATH_BYTES_MAX}; use a shorter`),
    ],
    [`unix:/tmp/${"ü".repeat(60)}`, /the path has 125 bytes/],
    [undefined, /expected a socket path/],
    [null, /expected a socket path/],
    [8080, /expected a socket path/],
    [10n, /expected a socket path/],
    [{}, /expected a socket path/],
    [Symbol("s"), /expected a socket path/],
  ];
  for (const [address, message] of wrong) {
    test(`${typeof address} ${String(address).slice(0, 30).replace("\0", "\\0")} is refused by the transport and by listen()`, async () => {
      const isInvalid = (error: unknown) => {
        assert.ok(error instanceof ConnectError, String(error));
        assert.equal(Code[error.code], "InvalidArgument");
        assert.match(error.message, message);
        return true;
      };
      assert.throws(() => createIsthmusTransport({ address: address as string }), isInvalid);
      await assert.rejects(createIsthmusServer({ routes: () => {} }).listen(address as string), isInvalid);
    });
  }

  test("may be a path, unix:PATH, unix://PATH, or relative", async (context) => {
    const server = await serveInChild(context);
    const folder = dirname(server.path);
    for (const address of [server.path, `unix:${server.path}`, `unix://${server.path}`, `UNIX:${server.path}`]) {
      assert.equal((await connectTo(context, { path: address }).client.echo({ text: address })).text, address);
    }
    await runScriptOk(
      context,
      `process.chdir(data);
       const client = createClient(TestService, createIsthmusTransport({ address: "server.sock" }));
       if ((await client.echo({ text: "x" })).text !== "x") throw new Error("wrong reply");`,
      folder,
    );
  });

  test("may be as long as the system allows", async (context) => {
    const folder = tempFolder(context);
    const path = join(folder, "s".repeat(PATH_BYTES_MAX - folder.length - 1));
    assert.equal(Buffer.byteLength(path), PATH_BYTES_MAX);
    const server = await serveInChild(context, {}, { address: path });
    assert.equal((await connectTo(context, server).client.echo({ text: "x" })).text, "x");
  });
});

describe("a client of another user", { skip }, () => {
  const call = `
    process.setgroups([]);
    process.setgid(data.gid ?? data.uid);
    process.setuid(data.uid);
    const client = createClient(TestService, createIsthmusTransport({ address: data.path }));
    await sayFailure(client.whoami({}).then((who) => { say(who.uid + " " + who.gid); }));`;
  interface Failure {
    code: string;
    message: string;
  }
  const openFolder = (path: string) => chmodSync(dirname(path), 0o755);

  test("cannot connect to a socket of mode 0600", async (context) => {
    const server = await serveInChild(context);
    openFolder(server.path);
    const { said } = await runScriptOk(context, call, { path: server.path, uid: SOMEBODY });
    const { code, message } = said[0] as Failure;
    assert.equal(code, "PermissionDenied", message);
    assert.match(message, /permission denied; the server decides by the socket's mode and gid/);
  });

  for (const uid of [SOMEBODY, NOBODY]) {
    test(`is refused with the reason by default, also where the socket is open to all (${uid})`, async (context) => {
      const server = await serveInChild(context, {}, { listen: { mode: 0o666 } });
      openFolder(server.path);
      const outcomes = await Promise.all([1, 2, 3].map(() => runScriptOk(context, call, { path: server.path, uid })));
      for (const { said } of outcomes) {
        const { code, message } = said[0] as Failure;
        assert.equal(code, "PermissionDenied", message);
        assert.match(
          message,
          new RegExp(`user ${uid} may not connect to this server; its option \`allow\` decides who may`),
        );
      }
      assert.equal((await server.stats()).refused, 3);
    });
  }

  test("is let in by allow(), and known by its ids", async (context) => {
    const server = await serveInChild(context, {}, { listen: { mode: 0o666 }, allowAll: true });
    openFolder(server.path);
    const { said } = await runScriptOk(context, call, { path: server.path, uid: SOMEBODY, gid: 23456 });
    assert.equal(said[0], `${SOMEBODY} 23456`);
  });

  test("of the socket's group may connect to a socket of mode 0660", async (context) => {
    const server = await serveInChild(context, {}, { listen: { mode: 0o660, gid: 23456 }, allowAll: true });
    openFolder(server.path);
    const [member, stranger] = await Promise.all([
      runScriptOk(context, call, { path: server.path, uid: SOMEBODY, gid: 23456 }),
      runScriptOk(context, call, { path: server.path, uid: SOMEBODY, gid: 34567 }),
    ]);
    assert.equal(member.said[0], `${SOMEBODY} 23456`);
    assert.equal((stranger.said[0] as Failure).code, "PermissionDenied");
  });

  test("cannot give a socket to a group that it is no member of", async (context) => {
    const folder = tempFolder(context);
    chmodSync(folder, 0o777);
    const path = join(folder, "server.sock");
    const { said } = await runScriptOk(
      context,
      `process.setgroups([]);
       process.setgid(${SOMEBODY});
       process.setuid(${SOMEBODY});
       await sayFailure(createIsthmusServer({ routes: testRoutes }).listen(data, { mode: 0o660, gid: 34567 }));`,
      path,
    );
    const { code, message } = said[0] as Failure;
    assert.equal(code, "PermissionDenied", message);
    assert.match(message, /not a member of group 34567/);
    assert.deepEqual(readdirSync(folder), []);
  });

  test("65534 is never let in by default, even by a server of that user", async (context) => {
    const folder = tempFolder(context);
    chmodSync(folder, 0o777);
    const { said } = await runScriptOk(
      context,
      `process.setgroups([]);
       process.setgid(${NOBODY});
       process.setuid(${NOBODY});
       const server = createIsthmusServer({ routes: testRoutes });
       await server.listen(data);
       const transport = createIsthmusTransport({ address: data });
       await sayFailure(createClient(TestService, transport).echo({}));
       await server.close();`,
      join(folder, "server.sock"),
    );
    const { code, message } = said[0] as Failure;
    assert.equal(code, "PermissionDenied", message);
    assert.match(message, /user 65534 may not connect/);
  });

  test("cannot listen where it may not write", async (context) => {
    const folder = tempFolder(context);
    mkdirSync(join(folder, "closed"), { mode: 0o755 });
    chmodSync(folder, 0o755);
    const { said } = await runScriptOk(
      context,
      `process.setgroups([]);
       process.setgid(${SOMEBODY});
       process.setuid(${SOMEBODY});
       await sayFailure(createIsthmusServer({ routes: testRoutes }).listen(data));`,
      join(folder, "closed", "server.sock"),
    );
    const { code, message } = said[0] as Failure;
    assert.equal(code, "PermissionDenied", message);
    assert.match(message, /the directory must be writable/);
  });
});

describe("without the addon", () => {
  const none = { env: { ISTHMUS_ADDON: "none" } };

  test("everything works over the socket, and one warning of the process says why", async (context) => {
    const { said } = await runScriptOk(
      context,
      `const warnings = [];
       process.on("warning", ({ name, code, message }) => warnings.push({ name, code, message }));
       const server = createIsthmusServer({ routes: testRoutes });
       await server.listen(data);
       for (let i = 0; i < 3; i++) {
         const transport = createIsthmusTransport({ address: data });
         say((await createClient(TestService, transport).echo({ text: "x" })).text + transport.carrier);
         await transport.close();
       }
       await server.close();
       say(warnings);`,
      tempSocket(context),
      none,
    );
    assert.deepEqual(said.slice(0, 3), ["xsocket", "xsocket", "xsocket"]);
    const warnings = said[3] as { name: string; code: string; message: string }[];
    assert.deepEqual(
      warnings.map(({ name, code }) => [name, code]),
      [["IsthmusWarning", "ISTHMUS_NO_SHARED_MEMORY"]],
    );
    assert.match(
      warnings[0].message,
      /shared memory is not available here: turned off by the environment variable ISTHMUS_ADDON=none/,
    );
  });

  test('carrier "shm" fails as soon as transport or server are made', async (context) => {
    const { said } = await runScriptOk(
      context,
      `await sayFailure((async () => createIsthmusTransport({ address: data, carrier: "shm" }))());
       await sayFailure((async () => createIsthmusServer({ routes: testRoutes, carrier: "shm" }))());`,
      tempSocket(context),
      none,
    );
    assert.deepEqual(
      (said as { code: string }[]).map(({ code }) => code),
      ["FailedPrecondition", "FailedPrecondition"],
    );
  });
});

test("a client of another version is refused with both versions, and told which to update", async (context) => {
  const server = await serveInChild(context);
  for (const [minVersion, maxVersion] of [
    [99, 99],
    [2, 7],
    [0, 0],
  ]) {
    const socket = connect(server.path);
    socket.on("error", () => {});
    socket.write(
      encodeHandshake({
        kind: "hello",
        minVersion,
        maxVersion,
        featuresSupported: 0,
        featuresRequired: 0,
        maxStreams: 1,
      }),
    );
    const chunks: Buffer[] = [];
    for await (const chunk of socket) chunks.push(chunk as Buffer);
    const answer = decodeHandshake(Buffer.concat(chunks));
    assert.equal(answer?.kind, "refused");
    assert.ok(answer.kind === "refused");
    assert.equal(answer.code, Code.FailedPrecondition);
    assert.match(
      answer.message,
      new RegExp(
        `no common protocol version: the client speaks ${minVersion} to ${maxVersion}, this server 1 to 1; update the older`,
      ),
    );
  }
});

test("memory sizes that make no sense are refused, with those that would", () => {
  const wrong: [memory: { ringBytes?: number; arenaBytes?: number }, message: RegExp][] = [
    [
      { ringBytes: 1000 },
      /option memory\.ringBytes: expected a number of bytes, a power of two from 64 KiB to 256 MiB, not 1000/,
    ],
    [{ ringBytes: NaN }, /memory\.ringBytes.*not NaN/],
    [{ ringBytes: 2 ** 30 }, /memory\.ringBytes/],
    [
      { arenaBytes: 65536 },
      /option memory\.arenaBytes: expected a number of bytes, a multiple of 64 KiB from 128 KiB to/,
    ],
    [{ arenaBytes: -1 }, /memory\.arenaBytes/],
    [{ arenaBytes: 1_000_000 }, /memory\.arenaBytes/],
  ];
  for (const [memory, message] of wrong) {
    assert.throws(() => createIsthmusTransport({ address: "/tmp/x", memory }), message);
    assert.throws(() => createIsthmusServer({ routes: () => {}, memory }), message);
  }
});
