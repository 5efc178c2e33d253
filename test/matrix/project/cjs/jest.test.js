const { writeFileSync } = require("node:fs");
const { join } = require("node:path");
const { run } = require("./program.js");

test("the package works", async () => {
  writeFileSync(process.env.MATRIX_RESULT, await run(join(__dirname, "routes.js")));
}, 60_000);
