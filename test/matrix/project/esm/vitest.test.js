import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { test } from "vitest";
import { run } from "./program.js";

test("the package works", { timeout: 60_000 }, async () => {
  writeFileSync(process.env.MATRIX_RESULT, await run(fileURLToPath(new URL("./routes.js", import.meta.url))));
});
