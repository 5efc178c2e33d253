/** The entry points of package.json: each can be imported and required, with types, and is one instance. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

type Target = string | { readonly types: string; readonly default: string };

const root = fileURLToPath(new URL("../../../", import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, Target>>>>;
  readonly typesVersions: Readonly<Record<"*", Readonly<Record<string, readonly string[]>>>>;
};
/** For bundlers and tools, and not for programs. */
const SPECIAL = ["./worker", "./package.json"];

const programs = Object.entries(manifest.exports).filter(([name]) => !SPECIAL.includes(name));

test("every entry point has both builds, chosen so that a program has one instance", () => {
  assert.ok(programs.length >= 3);
  for (const [name, conditions] of programs) {
    assert.ok(typeof conditions === "object", name);
    // The first condition that holds is taken.
    assert.deepEqual(Object.keys(conditions), ["module-sync", "module", "import", "require"], name);
    const { "module-sync": sync, module, import: imported, require: required } = conditions;
    assert.ok(typeof sync === "object" && typeof imported === "object" && typeof required === "object", name);
    assert.match(sync.default, /^\.\/dist\/src\/.*\.js$/);
    assert.equal(module, sync.default);
    const commonJs = sync.default.replace("dist/src", "dist/cjs");
    assert.equal(required.default, commonJs);
    assert.equal(imported.default, commonJs.replace(/\.js$/, ".mjs"));
    assert.equal(imported.types, sync.types);
    assert.equal(required.types, sync.types.replace("dist/src", "dist/cjs"));
    for (const target of [sync, imported, required])
      for (const path of Object.values(target)) assert.ok(existsSync(join(root, path)), `${name}: there is no ${path}`);
  }
});

test("every entry point has types where TypeScript does not read exports", () => {
  const names = programs.map(([name]) => name.slice("./".length)).filter((name) => name !== "");
  assert.deepEqual(Object.keys(manifest.typesVersions["*"]).sort(), names.sort());
});

test("only one file asks where it is", () => {
  const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.includes(".test."))
    .filter((name) =>
      readFileSync(join(root, "src", name), "utf8")
        .split("\n")
        .some((line) => /import\.meta|__filename|__dirname/.test(line) && !/^\s*(\*|\/\/|\/\*)/.test(line)),
    )
    // They only quote it, in advice to users.
    .filter((name) => !name.startsWith("connect/options/"));
  assert.deepEqual(files, ["os/package-files.ts"]);
});
