/** Errors that the documentation quotes are those of the code: a reader searches for them. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "./pages.js";

/** Shorter parts, such as `user`, say nothing. */
const PART_LENGTH_MIN = 12;

const source = readdirSync(join(packageRoot, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts") && !file.includes(".test."))
  .map((file) => readFileSync(join(packageRoot, "src", file), "utf8"))
  .join("\n");

/** What stays the same in a quoted error: `N` and numbers stand for values, `…` for the rest. */
function fixedParts(quoted: string): string[] {
  return quoted
    .split(/…|\bN\b|\d+/)
    .map((part) => part.trim())
    .filter((part) => part.length >= PART_LENGTH_MIN);
}

function quotedErrors(page: string, from: string): string[] {
  const text = readFileSync(join(packageRoot, page), "utf8");
  return [...text.slice(text.indexOf(from)).matchAll(/^\| `([^`]+)` \|/gm)].map(([, quoted]) => quoted);
}

test("the errors that docs/containers.md explains are in the code", () => {
  const quoted = quotedErrors("docs/containers.md", "## If it does not work");
  assert.ok(quoted.length >= 8, `only ${quoted.length} errors were found`);
  for (const error of quoted) {
    const parts = fixedParts(error);
    assert.ok(parts.length > 0, `${error}: nothing to look for`);
    for (const part of parts) assert.ok(source.includes(part), `no error of the code has: ${part}`);
  }
});
