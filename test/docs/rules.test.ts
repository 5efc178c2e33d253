/** The tables of rules: each rule is stated in the file that its row names, and each rule of the code has a row. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "./pages.js";

interface Row {
  readonly page: string;
  readonly id: string;
  readonly files: readonly string[];
}

function rowsOf(page: string): Row[] {
  const text = readFileSync(join(packageRoot, page), "utf8");
  return [...text.matchAll(/^\| ([A-Z][A-Z\d-]*-[A-Z\d]+) \| .* \| ([^|]*) \|$/gm)].map(([, id, files]) => ({
    page,
    id,
    files: [...files.matchAll(/`([^`]+)`/g)].map(([, file]) => file),
  }));
}

const sourceOf = (file: string) => readFileSync(join(packageRoot, "src", file), "utf8");
const sources = readdirSync(join(packageRoot, "src"), { recursive: true, encoding: "utf8" }).filter(
  (file) => file.endsWith(".ts") && !file.includes(".test."),
);
const states = (file: string, id: string) =>
  sources.includes(file) && new RegExp(`(?<![\\w-])${id}(?![\\w-])`).test(sourceOf(file));

const rules = rowsOf("docs/internals/rules.md");
const violations = rowsOf("docs/internals/protocol.md");

test("every rule of the tables is in the files that its row names", () => {
  assert.ok(rules.length > 90, `only ${rules.length} rules`);
  assert.ok(violations.length > 40, `only ${violations.length} violations`);
  const misplaced = [...rules, ...violations].flatMap(({ page, id, files }) => {
    if (files.length > 0 && files.every((file) => states(file, id))) return [];
    const found = sources.filter((file) => states(file, id));
    return [`${page}: ${id} is not in ${files.join(", ")}; it is in ${found.join(", ")}`];
  });
  assert.deepEqual(misplaced, []);
});

test("no rule has two rows", () => {
  for (const rows of [rules, violations]) {
    const ids = rows.map(({ id }) => id);
    assert.deepEqual(
      ids.filter((id, at) => ids.indexOf(id) !== at),
      [],
    );
  }
});

test("every rule that a file's opening comment states has a row", () => {
  const known = new Set([...rules, ...violations].map(({ id }) => id));
  const missing = sources.flatMap((file) =>
    [...sourceOf(file).matchAll(/^ \* ([A-Z][A-Z\d-]*-[A-Z\d]+) {1,2}[A-Z]/gm)]
      .map(([, id]) => id)
      .filter((id) => !known.has(id))
      .map((id) => `${file}: ${id}`),
  );
  assert.deepEqual(missing, []);
});
