// The package both imported and required: it must be one instance.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import * as codec from "isthmus/codec";
import * as grpcJs from "isthmus/grpc-js";
import * as isthmus from "isthmus";
import { run } from "../../esm/program.js";

const require = createRequire(import.meta.url);
for (const [name, imported] of Object.entries({ isthmus, "isthmus/codec": codec, "isthmus/grpc-js": grpcJs }))
  for (const [key, value] of Object.entries(require(name))) assert.equal(imported[key], value, `${key} of ${name}`);

console.log(await run(fileURLToPath(new URL("../../esm/routes.js", import.meta.url))));
