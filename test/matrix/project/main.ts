// Runs the program, as a file of its own: routes.js or routes.ts is beside it, if MATRIX_ENTRY names no other.
import { dirname, extname, join } from "node:path";
import { run } from "./program.js";

const file = process.argv[1];
const folder = process.env["MATRIX_FOLDER"] ?? dirname(file);
const extension = extname(file) === ".ts" ? ".ts" : ".js";
void run(process.env["MATRIX_ENTRY"] ?? join(folder, `routes${extension}`)).then(console.log, (error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
