// Makes dist/cjs: the package as CommonJS, for runners that load modules themselves and know no `require` of ES modules
// (jest), and for Node before 20.19 and 22.12. Its declarations are those of dist/src. See docs/decisions/0016.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(import.meta.url);

/** @param root the checkout, whose dist/src is up to date */
export async function makeCommonJs(root) {
  const { ModuleKind, ScriptTarget, transpileModule } = require("typescript");
  const [sources, compiled, target] = ["src", "dist/src", "dist/cjs"].map((path) => join(root, path));
  const written = new Set();
  const write = (path, text) => {
    written.add(path);
    writeIfChanged(path, text);
  };
  write(join(target, "package.json"), '{ "type": "commonjs" }\n');
  const names = readdirSync(sources, { recursive: true }).filter((name) => /^(?!.*\.test\.).*\.ts$/.test(name));
  for (const name of names) {
    const stem = join(target, name.slice(0, -".ts".length));
    const { outputText } = transpileModule(readFileSync(join(sources, name), "utf8"), {
      // A name with .cts makes it CommonJS, in which `import()` stays what it is.
      fileName: `${name.slice(0, -".ts".length)}.cts`,
      compilerOptions: { module: ModuleKind.Node20, target: ScriptTarget.ES2022 },
    });
    write(`${stem}.js`, adapted(outputText));
    write(`${stem}.d.ts`, readFileSync(join(compiled, name.replace(/\.ts$/, ".d.ts")), "utf8"));
  }
  for (const entry of entriesOf(root))
    write(join(target, entry.replace(/\.js$/, ".mjs")), await moduleOf(join(compiled, entry)));
  const found = readdirSync(target, { recursive: true }).map((name) => join(target, name));
  for (const path of found) if (!written.has(path) && /\.(m?js|d\.ts)$/.test(path)) rmSync(path, { force: true });
}

// In one step, and only if need be: other processes may be loading these files.
function writeIfChanged(path, text) {
  if (existsSync(path) && readFileSync(path, "utf8") === text) return;
  mkdirSync(dirname(path), { recursive: true });
  const unfinished = `${path}.${process.pid}`;
  writeFileSync(unfinished, text);
  renameSync(unfinished, path);
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
async function moduleOf(compiled) {
  const names = Object.keys(await import(pathToFileURL(compiled).href)).sort();
  const lines = [
    `import commonJs from "./${basename(compiled)}";`,
    `export const { ${names.join(", ")} } = commonJs;`,
    "",
  ];
  return lines.join("\n");
}
