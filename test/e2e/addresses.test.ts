/** Socket paths mean the same file for as long as a server or client lives. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { PATH_BYTES_MAX } from "../../src/carrier/address.js";
import { skip } from "../stress/settings.js";
import { runScriptOk } from "../support/processes.js";
import { tempFolder } from "../support/temp.js";

const BLOCKING = `
  const { createBlockingClient } = await import(data.index);
  const { Worker, workerData } = await import("node:worker_threads");`;

for (const [carrier, env] of [
  ["shm", {}],
  ["socket", {}],
  ["socket", { ISTHMUS_ADDON: "none", NODE_NO_WARNINGS: "1" }],
] as const) {
  describe(`a relative path, ${carrier}${"ISTHMUS_ADDON" in env ? " without the addon" : ""}`, {
    skip: "ISTHMUS_ADDON" in env ? false : skip,
  }, () => {
    test("is the same file after process.chdir, for server and client, also when they connect again", async (context) => {
      const folder = tempFolder(context);
      mkdirSync(join(folder, "there"));
      const { said } = await runScriptOk(
        context,
        `process.chdir(data.folder);
         const server = createIsthmusServer({ routes: testRoutes, carrier: data.carrier });
         const transport = createIsthmusTransport({ address: "./server.sock", carrier: data.carrier });
         const list = createIsthmusTransport({ address: ["unix:absent.sock", "unix:server.sock"], carrier: data.carrier });
         process.chdir("there");
         const clients = [transport, list].map((one) => createClient(TestService, one));
         process.chdir("..");
         const { address } = await server.listen("server.sock");
         say(address);
         process.chdir("there");
         for (const client of clients) say((await client.echo({ text: "first" })).text);
         await server.close();
         const next = createIsthmusServer({ routes: testRoutes, carrier: data.carrier });
         await next.listen(address);
         process.chdir("/");
         for (const client of clients) say((await client.echo({ text: "again" })).text);
         await Promise.all([transport.close(), list.close()]);
         await next.close();`,
        { folder, carrier },
        { env },
      );
      assert.deepEqual(said, [`unix:${join(folder, "server.sock")}`, "first", "first", "again", "again"]);
      assert.deepEqual(readdirSync(folder), ["there"], "the socket is gone, and nothing else was left");
    });

    test("may stand for more bytes than sockets allow, as long as it is near", async (context) => {
      const folder = join(tempFolder(context), "d".repeat(90), "e".repeat(20));
      mkdirSync(folder, { recursive: true });
      const { said } = await runScriptOk(
        context,
        `process.chdir(data.folder);
         const server = createIsthmusServer({ routes: testRoutes, carrier: data.carrier });
         await server.listen("server.sock");
         const transport = createIsthmusTransport({ address: "server.sock", carrier: data.carrier, waitForReady: false });
         const client = createClient(TestService, transport);
         say((await client.echo({ text: "near" })).text);
         await sayFailure(createIsthmusServer({ routes: testRoutes, carrier: data.carrier }).listen("server.sock"));
         process.chdir("/");
         await server.close({ timeoutMs: 0 });
         while (transport.state === "ready") await sleep(5);
         await sayFailure(client.echo({}));
         await sayFailure(server.listen("server.sock"));
         await transport.close();`,
        { folder, carrier },
        { env },
      );
      const [reply, inUse, far] = said as [string, { code: string }, { code: string; message: string }];
      assert.equal(reply, "near");
      assert.equal(inUse.code, "AlreadyExists");
      assert.equal(far.code, "InvalidArgument");
      assert.match(
        far.message,
        new RegExp(
          `connect to .*server\\.sock: the path has \\d+ bytes, also from the working directory more than the ${PATH_BYTES_MAX}`,
        ),
      );
      assert.equal(existsSync(join(folder, "server.sock")), false);
    });
  });
}

test("a blocking client's path is the same file after process.chdir", { skip }, async (context) => {
  const folder = tempFolder(context);
  const { said } = await runScriptOk(
    context,
    `${BLOCKING}
     process.chdir(data.folder);
     const { fork } = await import("node:child_process");
     const { once } = await import("node:events");
     const script = 'import { createIsthmusServer } from ' + JSON.stringify(data.index) + '; import { testRoutes } from ' + JSON.stringify(data.routes) + '; await createIsthmusServer({ routes: testRoutes }).listen("server.sock"); process.send("up"); process.on("disconnect", () => process.exit());';
     const child = fork("-", [], { execPath: process.execPath, execArgv: ["--input-type=module", "-e", script] });
     await once(child, "message");
     const client = createBlockingClient(TestService, { address: "server.sock" });
     process.chdir("/");
     say(client.echo({ text: "here" }).text);
     client.close();
     child.disconnect();`,
    {
      folder,
      index: new URL("../../src/index.js", import.meta.url).href,
      routes: new URL("../support/test-service.js", import.meta.url).href,
    },
  );
  assert.deepEqual(said, ["here"]);
});

test("without a working directory a relative path is refused, and an absolute one is not", {
  skip,
}, async (context) => {
  const { said } = await runScriptOk(
    context,
    `const { mkdtempSync, rmdirSync } = await import("node:fs");
     const gone = mkdtempSync(data + "/gone-");
     process.chdir(gone);
     rmdirSync(gone);
     await sayFailure((async () => createIsthmusTransport({ address: "server.sock" }))());
     createIsthmusTransport({ address: data + "/server.sock" });`,
    tempFolder(context),
  );
  assert.match(
    (said[0] as { message: string }).message,
    /address "server\.sock": the path is relative, and there is no working directory/,
  );
});
