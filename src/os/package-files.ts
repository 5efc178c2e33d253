/**
 * Finds the files of this package that are not imported: the native addon, and the entry point of worker threads. They
 * are in the package's folder or, if the package was bundled into a program, beside the bundle.
 */
import { existsSync } from "node:fs";
import nodeModule from "node:module";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** This file as it is loaded: compiled to dist/src/os or dist/cjs/os, or part of a bundle or an executable. */
const here = findHere();
const folder = dirname(here);

/** True if this package's code was bundled into another file. */
export const isBundled = ![join("dist", "src", "os"), join("dist", "cjs", "os")].some((own) =>
  here.endsWith(`${sep}${join(own, "package-files.js")}`),
);

/** True if this is the package's CommonJS build. Node 20.19, 22.12 and later do not load it: `require` loads ES modules. */
const isCommonJs = !isBundled && folder.endsWith(join("dist", "cjs", "os"));

/**
 * `require` from here, for modules of Node that are loaded late. SUBTLE: webpack would warn about an
 * imported `createRequire`, whose argument it wants to know.
 */
export const requireHere = nodeModule.createRequire(here);

export interface PackageFile {
  /** As a message names it. */
  readonly name: string;
  readonly path: string;
}

/** The places where the addon may be, those that exist, the first choice first. */
export function addonFiles(): PackageFile[] {
  const prebuilt = `prebuilds/${process.platform}-${process.arch}/isthmus.node`;
  return isBundled
    ? existing([...beside("isthmus.node"), ...beside(prebuilt), ...installed(prebuilt)])
    : existing([inPackage("build/isthmus.node"), inPackage(prebuilt)]);
}

/** What to do if there is no addon, or none that loads. */
export function addonAdvice(): string {
  const { platform, arch } = process;
  const prebuilt = `prebuilds/${platform}-${arch}/isthmus.node`;
  return isBundled
    ? `copy node_modules/isthmus/${prebuilt} to ${join(folder, "isthmus.node")}, or set ISTHMUS_ADDON to the path of one (docs/bundlers.md)`
    : "compile one from the package's native folder and set ISTHMUS_ADDON to its path (docs/install.md)";
}

/**
 * The entry point of worker threads.
 * @throws Error that says where a bundle's entry point is looked for
 */
export function workerEntry(): string {
  if (!isBundled) {
    // SUBTLE: in a runner such as jest, this is the CommonJS build although Node can `require` ES modules. In the thread
    // there is no runner, so the user's modules get the ES modules, and the entry point must be one of them.
    const build = isCommonJs && !requiresModules() ? "cjs" : "src";
    return inPackage(`dist/${build}/connect/server/worker-entry.js`).path;
  }
  const names = ["isthmus-worker.js", "isthmus-worker.mjs", "isthmus-worker.cjs"];
  const [found] = existing([...names.flatMap(beside), ...installed("dist/src/connect/server/worker-entry.js")]);
  if (found !== undefined) return found.path;
  throw new Error(
    `isthmus was bundled, and the entry point of its worker threads is not beside the bundle: bundle "isthmus/worker" too, as ${join(folder, names[0])} (docs/bundlers.md)`,
  );
}

/**
 * SUBTLE: bundlers put their own values in. webpack replaces `import.meta.url` by the path of this file where the bundle
 * is made, and what `typeof __filename` says by "string". Both other names are left to the program that runs, except
 * that a bundle in CommonJS has no `import.meta.filename`. Node before 20.11 has none either.
 */
function findHere(): string {
  try {
    return import.meta.filename ?? __filename;
  } catch {
    return fileURLToPath(import.meta.url);
  }
}

/** Whether this Node loads ES modules by `require`. */
function requiresModules(): boolean {
  return (process.features as { readonly require_module?: boolean }).require_module === true;
}

function inPackage(name: string): PackageFile {
  return { name, path: join(folder, "..", "..", "..", ...name.split("/")) };
}

function beside(name: string): PackageFile[] {
  return [{ name, path: join(folder, ...name.split("/")) }];
}

/** A file of the package that is installed where a bundle runs, if one is. */
function installed(name: string): PackageFile[] {
  try {
    const root = dirname(requireHere.resolve("isthmus/package.json"));
    return [{ name: `node_modules/isthmus/${name}`, path: join(root, ...name.split("/")) }];
  } catch {
    return [];
  }
}

function existing(files: readonly PackageFile[]): PackageFile[] {
  return files.filter(({ path }) => existsSync(path));
}
