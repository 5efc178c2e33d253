// The package both required and imported: it must be one instance.
const assert = require("node:assert/strict");
const { join } = require("node:path");
const { run } = require("../../cjs/program.js");

async function main() {
  for (const name of ["isthmus", "isthmus/codec", "isthmus/grpc-js"]) {
    const imported = await import(name);
    for (const [key, value] of Object.entries(require(name))) assert.equal(imported[key], value, `${key} of ${name}`);
  }
  console.log(await run(join(__dirname, "..", "..", "cjs", "routes.js")));
}

void main();
