// Packs the package as npm would publish it and checks the tarball: publint, are-the-types-wrong, what is in it, and
// that it works in an empty folder with install scripts disabled and no compiler on the path.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const USE = `
import { createIsthmusServer, createIsthmusTransport } from "isthmus";
import { createClient } from "@connectrpc/connect";
import { createFileRegistry } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema, StringValueSchema, file_google_protobuf_wrappers } from "@bufbuild/protobuf/wkt";
import { create, toBinary } from "@bufbuild/protobuf";
const descriptorSet = create(FileDescriptorSetSchema, { file: [file_google_protobuf_wrappers.proto, {
  name: "s.proto", syntax: "proto3", package: "p", dependency: ["google/protobuf/wrappers.proto"],
  service: [{ name: "S", method: [{ name: "Upper", inputType: ".google.protobuf.StringValue", outputType: ".google.protobuf.StringValue" }] }],
}] });
const service = createFileRegistry(descriptorSet).getService("p.S");
const server = createIsthmusServer({ routes: (router) => router.service(service, { upper: (request) => ({ value: request.value.toUpperCase() }) }) });
await server.listen("unix:./s.sock");
const transport = createIsthmusTransport({ address: "unix:./s.sock", carrier: "shm" });
const reply = await createClient(service, transport).upper({ value: "hello" });
if (reply.value !== "HELLO") throw new Error("wrong reply: " + JSON.stringify(reply));
await transport.close();
await server.close();
console.log("the packed tarball works in an empty folder: " + reply.value);
`;
const USE_CODEC = `
import { decode, encodeInto, sizeOf } from "isthmus/codec";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
const target = new Uint8Array(sizeOf(StringValueSchema, { value: "hello" }));
encodeInto(StringValueSchema, { value: "hello" }, target);
if (decode(StringValueSchema, target).value !== "hello") throw new Error("wrong message");
console.log("isthmus/codec works without Connect");
`;
const USE_CJS = `
const required = require("isthmus");
void import("isthmus").then((imported) => {
  if (required.createIsthmusServer !== imported.createIsthmusServer) throw new Error("there are two instances");
  console.log("require and import give one instance");
});
`;
const NEEDED = [
  ...cpusToPack().map((cpu) => `prebuilds/linux-${cpu}/isthmus.node`),
  ...["index.js", "index.d.ts"].flatMap((name) => [`dist/src/${name}`, `dist/cjs/${name}`]),
  ...["dist/cjs/index.mjs", "dist/cjs/package.json", "native/Makefile", "native/addon.c", "README.md", "LICENSE"],
];
const root = fileURLToPath(new URL("..", import.meta.url));
const work = mkdtempSync(join(tmpdir(), "isthmus-pack-"));
const run = (command, args, options = {}) =>
  execFileSync(command, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"], encoding: "utf8", ...options });

try {
  const packed = JSON.parse(
    run("npm", ["pack", "--json", "--silent", "--pack-destination", work]).replace(/^[^[{]*/s, ""),
  );
  const [info] = Array.isArray(packed) ? packed : Object.values(packed);
  const tarball = join(work, info.filename);
  const files = info.files.map((file) => file.path);
  const complaints = [
    ...files
      .filter((path) =>
        /^(?!examples\/starter\/).*\.test\.|^(dist\/)?(test|bench|examples\/(?!starter|README))|tsbuildinfo|\.o$/.test(
          path,
        ),
      )
      .map((path) => `${path} should not be packed`),
    ...NEEDED.filter((path) => !files.includes(path)).map((path) => `${path} is missing`),
    ...linksOfReadme()
      .filter((link) => !files.some((path) => path.startsWith(link)))
      .map((link) => `README.md links to ${link}, which is not packed`),
  ];
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  for (const script of ["preinstall", "install", "postinstall"]) {
    if (script in manifest.scripts) complaints.push(`package.json has an install script (${script})`);
  }
  if (complaints.length > 0) throw new Error(complaints.join("\n"));
  console.log(`packed ${files.length} files, ${info.size} bytes`);

  const bin = (name) => join(root, "node_modules", ".bin", name);
  console.log(run(bin("publint"), ["run", tarball, "--strict"]).trim());
  // Nobody imports isthmus/worker: it is for bundlers.
  const profile = ["--profile", "strict", "--exclude-entrypoints", "worker"];
  console.log(run(bin("attw"), [tarball, ...profile, "--format", "ascii"]).trim());

  // An empty folder: the peers come from the checkout, everything else from the tarball.
  const app = join(work, "app");
  mkdirSync(join(app, "node_modules"), { recursive: true });
  writeFileSync(join(app, "package.json"), '{ "private": true, "type": "module" }');
  run("tar", ["-xzf", tarball, "-C", join(app, "node_modules")]);
  run("mv", [join(app, "node_modules", "package"), join(app, "node_modules", "isthmus")]);
  for (const peer of ["@bufbuild", "@connectrpc"])
    symlinkSync(join(root, "node_modules", peer), join(app, "node_modules", peer));
  writeFileSync(join(app, "use.mjs"), USE);
  writeFileSync(join(app, "use.cjs"), USE_CJS);
  // No compiler, no npm: only node.
  const env = { PATH: dirname(process.execPath), HOME: work };
  console.log(run(process.execPath, ["use.mjs"], { cwd: app, env }).trim());
  rmSync(join(app, "node_modules", "@connectrpc"));
  writeFileSync(join(app, "use-codec.mjs"), USE_CODEC);
  console.log(run(process.execPath, ["use-codec.mjs"], { cwd: app, env }).trim());
  symlinkSync(join(root, "node_modules", "@connectrpc"), join(app, "node_modules", "@connectrpc"));
  for (const options of [[], ["--no-experimental-require-module"]])
    console.log(run(process.execPath, [...options, "use.cjs"], { cwd: app, env }).trim());
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** The files and folders that README.md links to. */
function linksOfReadme() {
  const links = readFileSync(join(root, "README.md"), "utf8").matchAll(/\]\((?![a-z]+:|#)([^)#\s]+)/g);
  return [...links].map(([, path]) => path);
}

/** The CPUs whose addons were packed. */
function cpusToPack() {
  return process.env.ISTHMUS_PREBUILDS?.split(",") ?? ["x64", "arm64"];
}
