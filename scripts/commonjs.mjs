// Makes dist/cjs: the package as CommonJS, for runners that load modules themselves and know no `require` of ES modules
// (jest), and for Node before 20.19 and 22.12. Its declarations are those of dist/src. See docs/decisions/0016.

import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(import.meta.url);

/** @param root the checkout, whose dist/src is up to date */
export async function makeCommonJs(root) {
  const { ModuleKind, ScriptTarget, transpileModule } = require("typescript");
  const [sources, compiled, target] = ["src", "dist/src", "dist/cjs"].map((path) => join(root, path));
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  writeFileSync(join(target, "package.json"), '{ "type": "commonjs" }\n');
  const names = readdirSync(sources, { recursive: true }).filter((name) => /^(?!.*\.test\.).*\.ts$/.test(name));
  for (const name of names) {
    const stem = join(target, name.slice(0, -".ts".length));
    mkdirSync(dirname(stem), { recursive: true });
    const { outputText } = transpileModule(readFileSync(join(sources, name), "utf8"), {
      // A name with .cts makes it CommonJS, in which `import()` stays what it is.
      fileName: `${name.slice(0, -".ts".length)}.cts`,
      compilerOptions: { module: ModuleKind.Node20, target: ScriptTarget.ES2022 },
    });
    writeFileSync(`${stem}.js`, adapted(outputText));
    copyFileSync(join(compiled, name.replace(/\.ts$/, ".d.ts")), `${stem}.d.ts`);
  }
  for (const entry of entriesOf(root)) await writeModule(join(compiled, entry), join(target, entry));
}

// Packages are required, so that they load where the rest does; modules of users are imported. CommonJS has no
// `import.meta`, and `__filename` is used instead.
function adapted(code) {
  return code
    .replace(/\bimport\((?:\/\*.*?\*\/\s*)*"([^"]+)"\)/g, 'Promise.resolve().then(() => require("$1"))')
    .replaceAll(/\bimport\.meta\.\w+/g, "undefined")
    .replace(/\n\/\/# sourceMappingURL=.*\n?$/, "\n");
}

/** The modules of package.json's exports, as paths in dist/cjs. */
function entriesOf(root) {
  const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return Object.values(exports)
    .filter(({ require }) => require !== undefined)
    .map(({ require }) => relative("dist/cjs", require.default));
}

// Next to an entry point, the same as an ES module: for Node that cannot `require` ES modules, so that a program with
// both kinds of modules has one instance.
async function writeModule(compiled, entry) {
  const names = Object.keys(await import(pathToFileURL(compiled).href)).sort();
  const file = entry.slice(entry.lastIndexOf("/") + 1);
  const lines = [`import commonJs from "./${file}";`, `export const { ${names.join(", ")} } = commonJs;`, ""];
  writeFileSync(entry.replace(/\.js$/, ".mjs"), lines.join("\n"));
}
