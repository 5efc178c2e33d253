/**
 * docs/containers.md is right: its examples agree with each other, its code compiles, and it runs as the examples have
 * it.
 */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { parseAllDocuments } from "yaml";
import { skip as noSharedMemory } from "../stress/settings.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempFolder } from "../support/temp.js";
import { waitUntil, within } from "../support/waiting.js";

const packageRoot = fileURLToPath(new URL("../../../", import.meta.url));
const guide = readFileSync(join(packageRoot, "docs/containers.md"), "utf8");
const blocks = (language: string) =>
  [...guide.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms"))].map((match) => match[1]);

type Yaml = string | number | boolean | Yaml[] | { [key: string]: Yaml };
/** The documents of a YAML text. @throws if it is not valid */
const parseYaml = (text: string): Yaml[] =>
  parseAllDocuments(text).map((document) => {
    assert.deepEqual(document.errors, []);
    return document.toJS() as Yaml;
  });
type YamlMap = { [key: string]: Yaml };
const mapOf = (value: Yaml | undefined): YamlMap => {
  assert.ok(typeof value === "object" && !Array.isArray(value), `expected a map, got ${JSON.stringify(value)}`);
  return value;
};
const mapsOf = (value: Yaml | undefined): YamlMap[] => {
  assert.ok(Array.isArray(value), `expected a list, got ${JSON.stringify(value)}`);
  return value.map(mapOf);
};

/** A container of an example, whatever the example is for. */
interface Example {
  readonly name: string;
  readonly uid: number;
  /** The primary group; 0 where Kubernetes is given none and the image has none. */
  readonly gid: number;
  readonly groups: number[];
  readonly socket: string;
  readonly mountPath: string;
  /** Where the folder comes from: containers meet if it is the same. */
  readonly source: string;
}

interface Setup {
  readonly title: string;
  readonly containers: Example[];
  /** How the folder is made. */
  readonly folder: { uid: number; gid: number; mode: number };
}

const [podText, twoPodsText, composeText] = blocks("yaml");

function podContainers(spec: YamlMap): Example[] {
  const security = mapOf(spec["securityContext"]);
  const groups = [security["fsGroup"], ...((security["supplementalGroups"] as number[] | undefined) ?? [])].filter(
    (group) => group !== undefined,
  ) as number[];
  const sources = new Map(
    mapsOf(spec["volumes"]).map(({ name, ...rest }) => [
      name,
      JSON.stringify(mapOf(rest["hostPath"] ?? rest)["path"] ?? rest),
    ]),
  );
  return mapsOf(spec["containers"]).map((container) => {
    const [mount] = mapsOf(container["volumeMounts"]);
    const socket = mapsOf(container["env"]).find(({ name }) => name === "ISTHMUS_SOCKET")?.["value"];
    const source = sources.get(mount["name"]);
    assert.ok(source !== undefined, `there is no volume ${JSON.stringify(mount["name"])}`);
    const uid = mapOf(container["securityContext"])["runAsUser"] as number;
    return {
      name: container["name"] as string,
      uid,
      gid: 0,
      groups,
      socket: socket as string,
      mountPath: mount["mountPath"] as string,
      source,
    };
  });
}

function onePod(): Setup {
  const [pod] = parseYaml(podText).map(mapOf);
  const spec = mapOf(pod["spec"]);
  assert.ok(mapsOf(spec["volumes"])[0]["emptyDir"] !== undefined);
  // What Kubernetes makes of an emptyDir with an fsGroup.
  const gid = mapOf(spec["securityContext"])["fsGroup"] as number;
  return { title: "one Pod", containers: podContainers(spec), folder: { uid: 0, gid, mode: 0o2777 } };
}

function twoPods(): Setup {
  const [server, client] = parseYaml(twoPodsText).map((document) => mapOf(mapOf(document)["spec"]));
  const template = mapOf(server["template"]);
  const labels = mapOf(mapOf(template["metadata"])["labels"]);
  assert.deepEqual(mapOf(server["selector"])["matchLabels"], labels);
  const [term] = mapsOf(
    mapOf(mapOf(client["affinity"])["podAffinity"])["requiredDuringSchedulingIgnoredDuringExecution"],
  );
  assert.deepEqual(mapOf(term["labelSelector"])["matchLabels"], labels);
  const spec = mapOf(template["spec"]);
  const [initial] = mapsOf(spec["initContainers"]);
  const command = (initial["command"] as string[])[2];
  const [, uid, gid, chowned, mode, changed] = /^chown (\d+):(\d+) (\S+) && chmod (\d+) (\S+)$/.exec(command) ?? [];
  assert.deepEqual([chowned, changed], Array(2).fill(mapsOf(initial["volumeMounts"])[0]["mountPath"]));
  const containers = [...podContainers(spec), ...podContainers(client)];
  return { title: "two Pods", containers, folder: { uid: Number(uid), gid: Number(gid), mode: parseInt(mode, 8) } };
}

function compose(): Setup {
  const [document] = parseYaml(composeText).map(mapOf);
  const volumes = mapOf(document["volumes"]);
  const containers = Object.entries(mapOf(document["services"])).map(([name, value]): Example => {
    const service = mapOf(value);
    const [uid, gid] = (service["user"] as string).split(":").map(Number);
    const [source, mountPath] = (service["volumes"] as string[])[0].split(":");
    assert.ok(source in volumes, `there is no volume ${source}`);
    return {
      name,
      uid,
      gid,
      groups: [gid],
      socket: mapOf(service["environment"])["ISTHMUS_SOCKET"] as string,
      mountPath,
      source,
    };
  });
  const options = mapOf(mapOf(volumes[containers[0].source])["driver_opts"])["o"] as string;
  const option = (name: string) => new RegExp(`(?:^|,)${name}=(\\d+)`).exec(options)?.[1] ?? "";
  return {
    title: "Compose",
    containers,
    folder: { uid: Number(option("uid")), gid: Number(option("gid")), mode: parseInt(option("mode"), 8) },
  };
}

const setups = [onePod, twoPods, compose].map((make) => make());

test("the guide has the examples that are checked here, and no others", () => {
  assert.equal(blocks("yaml").length, 3);
  assert.equal(blocks("ts").length, 4);
  assert.equal(guide.match(/^```\w+$/gm)?.length, 7);
});

for (const { title, containers } of setups) {
  test(`in the example of ${title} both containers meet in one folder, as the users and the group that the code names`, () => {
    const [server, client] = containers;
    assert.deepEqual(
      containers.map(({ name }) => name),
      ["server", "client"],
    );
    assert.equal(server.source, client.source);
    for (const container of containers) assert.equal(dirname(container.socket), container.mountPath);
    assert.equal(server.socket, client.socket);
    const [serverCode] = blocks("ts");
    assert.deepEqual(
      [...serverCode.matchAll(/uid === (\d+)/g)].map((match) => Number(match[1])),
      [server.uid, client.uid],
    );
    const gid = Number(/gid: (\d+)/.exec(serverCode)?.[1]);
    for (const { groups } of containers) assert.ok(groups.includes(gid));
  });
}

describe("the guide's code", () => {
  const owner = suiteOwner();
  const app = tempFolder(owner);
  const compiled = compile(app);

  test("compiles", () => assert.deepEqual(compiled, []));

  const cannot = noSharedMemory || refusal(app);
  for (const { title, containers, folder } of setups) {
    test(`runs with the users, groups and modes of ${title}`, { skip: cannot }, async (context) => {
      const path = makeFolder(context, folder);
      const socket = join(path, "echo.sock");
      const [server, client] = containers;
      const serving = start(context, app, "server.js", server, socket);
      const calling = start(context, app, "client.js", client, socket);
      assert.deepEqual(await within(60_000, "the client's end", calling.ended), {
        code: 0,
        said: "HELLO\n",
        complaint: "",
      });
      assert.equal(statSync(socket).mode & 0o777, 0o660);
      assert.equal(statSync(socket).gid, 2000);

      const stranger = await within(
        60_000,
        "the stranger's end",
        start(context, app, "client.js", { ...client, uid: client.uid + 1 }, socket).ended,
      );
      assert.equal(stranger.code, 1);
      assert.match(stranger.complaint, /user 1003 may not connect to this server/);
      const outsider = await within(
        60_000,
        "the outsider's end",
        start(context, app, "client.js", { ...client, gid: 3000, groups: [3000] }, socket).ended,
      );
      assert.equal(outsider.code, 1);
      assert.match(outsider.complaint, /permission denied/);

      serving.child.kill("SIGTERM");
      assert.deepEqual(await within(60_000, "the server's end", serving.ended), { code: 0, said: "", complaint: "" });
      assert.deepEqual(readdirSync(path), []);
    });
  }

  test("waits for a server that starts later", { skip: cannot }, async (context) => {
    const { containers, folder } = setups[0];
    const socket = join(makeFolder(context, folder), "echo.sock");
    const calling = start(context, app, "client.js", containers[1], socket);
    await waitUntil("the client to run", () => existsSync(`/proc/${calling.child.pid}/cmdline`));
    const serving = start(context, app, "server.js", containers[0], socket);
    assert.equal((await within(60_000, "the client's end", calling.ended)).said, "HELLO\n");
    serving.child.kill("SIGTERM");
    await serving.ended;
  });
});

/**
 * Writes and compiles the code into `app`, as a package that has `isthmus` installed. What the compiler complains of.
 */
function compile(app: string): string[] {
  chmodSync(app, 0o755);
  mkdirSync(join(app, "node_modules"));
  symlinkSync(packageRoot, join(app, "node_modules/isthmus"));
  for (const name of ["@bufbuild", "@connectrpc", "@types"])
    symlinkSync(join(packageRoot, "node_modules", name), join(app, "node_modules", name));
  writeFileSync(join(app, "package.json"), '{ "type": "module" }');
  copyFileSync(join(packageRoot, "test/proto/echo_pb.ts"), join(app, "echo_pb.ts"));
  const names = blocks("ts").map((text, at) => {
    const name = join(app, /^\/\/ (\S+\.ts)$/m.exec(text)?.[1] ?? `block-${at}.ts`);
    writeFileSync(name, text);
    return name;
  });
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
  return [...ts.getPreEmitDiagnostics(program), ...emitted.diagnostics].map(
    ({ file, messageText }) => `${file?.fileName ?? ""}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`,
  );
}

function makeFolder(owner: Owner, { uid, gid, mode }: Setup["folder"]): string {
  const parent = tempFolder(owner);
  chmodSync(parent, 0o755);
  const path = join(parent, "shared");
  mkdirSync(path);
  chownSync(path, uid, gid);
  chmodSync(path, mode);
  return path;
}

interface End {
  readonly code: number | null;
  readonly said: string;
  readonly complaint: string;
}

function commandAs({ uid, gid, groups }: Pick<Example, "uid" | "gid" | "groups">, program: string): [string, string[]] {
  return [
    "setpriv",
    [
      "--reuid",
      String(uid),
      "--regid",
      String(gid),
      "--groups",
      groups.join(),
      "--inh-caps=-all",
      process.execPath,
      program,
    ],
  ];
}

function start(
  owner: Owner,
  app: string,
  program: string,
  as: Example,
  socket: string,
): { child: ChildProcess; ended: Promise<End> } {
  const [command, parameters] = commandAs(as, join(app, program));
  // Of the environment only what makes Node warn on the standard error is left out.
  const child = spawn(command, parameters, {
    env: { PATH: process.env["PATH"], ISTHMUS_SOCKET: socket },
    stdio: ["ignore", "pipe", "pipe"],
  });
  owner.after(() => child.kill("SIGKILL"));
  let said = "";
  let complaint = "";
  child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
  return { child, ended: once(child, "close").then(([code]) => ({ code: code as number | null, said, complaint })) };
}

/** Why programs cannot be run as other users here; false if they can. */
function refusal(app: string): string | false {
  const [command, parameters] = commandAs(setups[0].containers[0], join(app, "echo_pb.js"));
  const { error, status, stderr } = spawnSync(command, parameters, {
    encoding: "utf8",
    env: { PATH: process.env["PATH"] },
  });
  if (error !== undefined) return error.message;
  return status !== 0 && `programs cannot be run as another user here: ${stderr.trim()}`;
}
