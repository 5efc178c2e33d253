import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { run } from "./program.js";

test("the package works", async () => {
  writeFileSync(process.env.MATRIX_RESULT, await run(fileURLToPath(new URL("./routes.js", import.meta.url))));
}, 60_000);
