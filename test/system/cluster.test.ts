/** Servers in the workers of a cluster: docs/cluster.md is right, its examples compile and run. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { skip } from "../stress/settings.js";
import { runScriptOk } from "../support/processes.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempFolder, tempSocket } from "../support/temp.js";
import { waitUntil, within } from "../support/waiting.js";

const packageRoot = fileURLToPath(new URL("../../../", import.meta.url));
const guide = readFileSync(join(packageRoot, "docs/cluster.md"), "utf8");

/**
 * A cluster of two whose workers run `worker`, and tell by a message what came of it; the primary says that, and ends.
 */
const cluster = (worker: string) => `
  const { default: cluster } = await import("node:cluster");
  if (cluster.isPrimary) {
    cluster.setupPrimary({ execArgv: process.execArgv, args: [process.argv[1]] });
    const workers = [cluster.fork(), cluster.fork()];
    const outcomes = await Promise.all(workers.map((one) => new Promise((resolve) => one.once("message", resolve))));
    say(outcomes);
    process.exit();
  } else {
    const outcome = await (async () => { ${worker} })().catch((error) => ({ code: Code[error.code], message: error.message }));
    process.send(outcome);
  }`;

describe("docs/cluster.md", () => {
  const app = tempFolder(suiteOwner());
  let complaints: string[];
  before(() => {
    mkdirSync(join(app, "node_modules"));
    symlinkSync(packageRoot, join(app, "node_modules/isthmus"));
    for (const name of ["@bufbuild", "@connectrpc", "@types"])
      symlinkSync(join(packageRoot, "node_modules", name), join(app, "node_modules", name));
    writeFileSync(join(app, "package.json"), '{ "type": "module" }');
    copyFileSync(join(packageRoot, "test/proto/echo_pb.ts"), join(app, "echo_pb.ts"));
    const names = [...guide.matchAll(/^```ts\n\/\/ (\S+\.ts)\n(.*?)^```$/gms)].map(([, name, text]) => {
      writeFileSync(join(app, name), text);
      return join(app, name);
    });
    assert.equal(names.length, 2);
    const { config } = ts.readConfigFile(join(packageRoot, "tsconfig.json"), (path) => readFileSync(path, "utf8")) as {
      config: { compilerOptions: object };
    };
    const { options } = ts.convertCompilerOptionsFromJson(
      {
        ...config.compilerOptions,
        rootDir: ".",
        outDir: ".",
        declaration: false,
        incremental: false,
        tsBuildInfoFile: undefined,
      },
      app,
    );
    const program = ts.createProgram(names, options);
    const emitted = program.emit();
    complaints = [...ts.getPreEmitDiagnostics(program), ...emitted.diagnostics].map(({ messageText }) =>
      ts.flattenDiagnosticMessageText(messageText, "\n"),
    );
  });

  const start = (
    owner: Owner,
    program: string,
    env: NodeJS.ProcessEnv,
  ): { child: ChildProcess; ended: Promise<string> } => {
    const child = spawn(process.execPath, [join(app, program)], {
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "inherit"],
    });
    owner.after(() => child.kill("SIGKILL"));
    let said = "";
    child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
    return { child, ended: once(child, "close").then(() => said) };
  };

  test("its examples compile", () => assert.deepEqual(complaints, []));

  test("its server has a path for each worker, and its client uses them in turn", async (context) => {
    const folder = tempFolder(context);
    start(context, "server.js", { ECHO_FOLDER: folder });
    await waitUntil(
      "both workers to listen",
      () => existsSync(join(folder, "echo-0.sock")) && existsSync(join(folder, "echo-1.sock")),
    );
    for (const first of [0, 1]) {
      const { ended } = start(context, "client.js", { ECHO_FOLDER: folder, FIRST: String(first) });
      assert.equal(await within(20_000, "the client's end", ended), `hello from ${first}\n`);
    }
  });

  test("a second worker that listens on the same path is told what to do instead", async (context) => {
    const path = tempSocket(context);
    const worker = `await createIsthmusServer({ routes: testRoutes }).listen(data); return { code: "listening" };`;
    const { said } = await runScriptOk(context, cluster(worker), path);
    const outcomes = said[0] as { code: string; message?: string }[];
    assert.deepEqual(outcomes.map(({ code }) => code).sort(), ["AlreadyExists", "listening"]);
    const { message } = outcomes.find(({ code }) => code === "AlreadyExists")!;
    assert.match(
      message!,
      /a live server has it; perhaps another worker of this cluster: .*option `workers`, or give each worker of the cluster a path of its own \(docs\/cluster\.md\)/,
    );
  });

  test("outside of a cluster a second server is told how to replace the first", async (context) => {
    const { said } = await runScriptOk(
      context,
      `await createIsthmusServer({ routes: testRoutes }).listen(data);
       await sayFailure(createIsthmusServer({ routes: testRoutes }).listen(data));
       process.exit();`,
      tempSocket(context),
    );
    assert.match(
      (said[0] as { message: string }).message,
      /a live server has it; stop that server, or pass takeover: true to replace it/,
    );
  });

  for (const scheme of ["tcp:", "http://"]) {
    test(`the workers of a cluster share an address of ${scheme}, and calls reach both`, async (context) => {
      const worker = `
        const { address } = await createIsthmusServer({ routes: (router) => router.rpc(TestService.method.echo, () => ({ text: String(process.pid) })) }).listen(data);
        return { pid: process.pid, address };`;
      const primary = cluster(worker).replace(
        "say(outcomes);",
        `const { address } = outcomes[0];
         const pids = new Set();
         for (let i = 0; i < 20; i++) {
           const transport = createIsthmusTransport({ address });
           pids.add((await createClient(TestService, transport).echo({})).text);
           await transport.close();
         }
         say({ addresses: outcomes.map(({ address }) => address), workers: outcomes.map(({ pid }) => String(pid)).sort(), pids: [...pids].sort() });`,
      );
      const { said } = await runScriptOk(context, primary, `${scheme}127.0.0.1:0`, { limitMs: 40_000 });
      const { addresses, workers, pids } = said[0] as { addresses: string[]; workers: string[]; pids: string[] };
      assert.equal(addresses[0], addresses[1]);
      assert.deepEqual(pids, workers);
    });
  }

  test("with takeover the worker that listens last gets the new clients", { skip }, async (context) => {
    const worker = `
      const server = createIsthmusServer({ routes: (router) => router.rpc(TestService.method.echo, () => ({ text: String(process.pid) })) });
      await server.listen(data, { takeover: true });
      return { pid: process.pid };`;
    const primary = cluster(worker).replace(
      "say(outcomes);",
      `const transport = createIsthmusTransport({ address: data });
       const { text } = await createClient(TestService, transport).echo({});
       await transport.close();
       say(outcomes.some(({ pid }) => String(pid) === text));`,
    );
    assert.deepEqual((await runScriptOk(context, primary, tempSocket(context))).said, [true]);
  });
});
