/** Bun and Deno: the socket carrier works there, as client and as server, with each other and with Node. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { bun, deno, finished, node, run, written } from "../support/runtimes.js";
import type { Owner } from "../support/temp.js";
import { tempFolder, tempSocket } from "../support/temp.js";

const packageRoot = fileURLToPath(new URL("../../../", import.meta.url));
const program = fileURLToPath(new URL("./runtimes.peer.js", import.meta.url));

/** README's server and client as modules, with an address of this test's own. */
function writeExample(owner: Owner): { server: string; client: string } {
  const folder = tempFolder(owner);
  const readme = readFileSync(join(packageRoot, "README.md"), "utf8");
  const codes = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => match[1]);
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(packageRoot, join(folder, "node_modules/isthmus"));
  for (const scope of ["@connectrpc", "@bufbuild"])
    symlinkSync(join(packageRoot, "node_modules", scope), join(folder, "node_modules", scope));
  copyFileSync(new URL("../proto/echo_pb.js", import.meta.url), join(folder, "echo_pb.js"));
  const write = (name: string, code: string | undefined) => {
    assert.ok(code !== undefined && code.includes("unix:/tmp/echo.sock"), `README has no ${name}`);
    const { outputText } = ts.transpileModule(code.replace("/tmp/echo.sock", join(folder, "echo.sock")), {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 },
    });
    const path = join(folder, `${name}.js`);
    writeFileSync(path, name === "server" ? `${outputText}\nconsole.log("listening");` : outputText);
    return path;
  };
  return {
    server: write(
      "server",
      codes.find((code) => code.includes("createIsthmusServer")),
    ),
    client: write(
      "client",
      codes.find((code) => code.includes("createIsthmusTransport")),
    ),
  };
}

for (const [server, client] of [
  [bun, bun],
  [bun, node],
  [node, bun],
  [deno, deno],
  [deno, node],
  [node, deno],
] as const) {
  describe(`a server in ${server.name} and a client in ${client.name}`, { skip: server.skip || client.skip }, () => {
    test("run README's example", async (context) => {
      const example = writeExample(context);
      await written(run(context, server, example.server), "listening");
      const { code, output } = await finished(run(context, client, example.client));
      assert.equal(code, 0, output);
      assert.match(output, /^HELLO$/m);
    });

    for (const kind of server === client ? ["a path", "TCP"] : ["a path"]) {
      test(`call methods of all kinds over ${kind}`, async (context) => {
        const serving = run(
          context,
          server,
          program,
          "serve",
          kind === "TCP" ? "tcp:127.0.0.1:0" : tempSocket(context),
        );
        await written(serving, "listening at ");
        const [, address] = /listening at (\S+)/.exec(serving.output())!;
        const { code, output } = await finished(run(context, client, program, "call", address));
        assert.equal(code, 0, output);
        assert.match(output, /^done$/m);
        const lacks = [client, server]
          .map(({ name }, i) =>
            name === "Node"
              ? undefined
              : `the ${["client", "server"][i]} uses no shared memory: ${name} cannot run the native addon`,
          )
          .filter((lack) => lack !== undefined);
        assert.match(
          output,
          kind === "TCP"
            ? /^socket: neither end uses shared memory: the connection is over TCP$/m
            : new RegExp(
                client === server
                  ? `^socket: neither end uses shared memory: ${client.name} cannot`
                  : `^socket: ${lacks.join(".*; ")}`,
                "m",
              ),
        );
        serving.process.kill("SIGTERM");
        const ended = await finished(serving);
        assert.equal(ended.code, 0, ended.output);
        assert.match(ended.output, /^aborted: 2, connections: 0$/m);
      });
    }
  });
}

for (const runtime of [bun, deno]) {
  test(`${runtime.name} says what cannot be had, drains, notices the dead, finds their successors and takes a path over`, {
    skip: runtime.skip,
  }, async (context) => {
    const { code, output } = await finished(
      run(context, runtime, program, "edges", tempSocket(context), ...runtime.command),
    );
    assert.equal(code, 0, output);
    assert.match(output, /^done$/m);
    assert.equal(output.match(/ISTHMUS_NO_SHARED_MEMORY/g)?.length, 1, output);
  });

  test(`${runtime.name} serves and calls over HTTP`, { skip: runtime.skip }, async (context) => {
    const serving = run(context, runtime, program, "serve", "http://127.0.0.1:0");
    await written(serving, "listening at ");
    const [, address] = /listening at (\S+)/.exec(serving.output())!;
    for (const client of [runtime, node]) {
      const { code, output } = await finished(run(context, client, program, "call", address));
      assert.equal(code, 0, output);
      assert.match(output, /^http: HTTP connections do not use shared memory$/m);
    }
  });
}
