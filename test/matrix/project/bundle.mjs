// Bundles the compiled program, as docs/bundlers.md says: node bundle.mjs esbuild|webpack|rollup esm|cjs FOLDER
// Its entry points are the program, the routes of its worker threads, and the package's own entry point of those.
import { copyFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [tool, format, target] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const source = resolve(format);
const entries = {
  main: join(source, "main.js"),
  routes: join(source, "routes.js"),
  "isthmus-worker": require.resolve("isthmus/worker"),
};

const tools = {
  async esbuild() {
    const { build } = await import("esbuild");
    const { warnings } = await build({
      entryPoints: entries,
      bundle: true,
      platform: "node",
      target: "node20",
      format,
      splitting: format === "esm",
      outdir: target,
      logLevel: "silent",
    });
    return warnings.map(({ text }) => text);
  },
  async webpack() {
    const { default: webpack } = await import("webpack");
    const compiler = webpack({
      mode: "production",
      target: "node20",
      entry: entries,
      experiments: { outputModule: format === "esm" },
      output: {
        path: target,
        filename: "[name].js",
        ...(format === "esm" && { chunkFormat: "module" }),
        library: { type: format === "esm" ? "module" : "commonjs2" },
      },
    });
    const stats = await new Promise((done, fail) =>
      compiler.run((error, result) => (error === null ? done(result) : fail(error))),
    );
    const { errors, warnings } = stats.toJson({ errors: true, warnings: true });
    if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join("\n"));
    return warnings.map(({ message }) => message);
  },
  async rollup() {
    const [{ rollup }, { nodeResolve }, { default: commonjs }] = await Promise.all([
      import("rollup"),
      import("@rollup/plugin-node-resolve"),
      import("@rollup/plugin-commonjs"),
    ]);
    const warnings = [];
    const bundle = await rollup({
      input: entries,
      external: /^node:/,
      plugins: [nodeResolve({ preferBuiltins: true }), commonjs()],
      // Connect's own code, as compiled for older targets, has helpers that begin with `this`.
      onwarn: ({ code, message }) => code === "THIS_IS_UNDEFINED" || warnings.push(message),
    });
    await bundle.write({ dir: target, format, entryFileNames: "[name].js", chunkFileNames: "[name]-[hash].js" });
    return warnings;
  },
};

const warnings = await tools[tool]();
for (const warning of warnings) console.error(`warning: ${warning}`);
writeFileSync(join(target, "package.json"), JSON.stringify({ type: format === "esm" ? "module" : "commonjs" }));
const addon = `prebuilds/${process.platform}-${process.arch}/isthmus.node`;
if (!process.argv.includes("--no-addon"))
  copyFileSync(join(require.resolve("isthmus/package.json"), "..", addon), join(target, "isthmus.node"));
process.exitCode = warnings.length > 0 ? 1 : 0;
