// Vitest's own files are ES modules; the program is CommonJS.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { test } from "vitest";

const { run } = createRequire(import.meta.url)("./program.js");

test("the package works", { timeout: 60_000 }, async () => {
  writeFileSync(process.env.MATRIX_RESULT, await run(fileURLToPath(new URL("./routes.js", import.meta.url))));
});
