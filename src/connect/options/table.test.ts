/** What the documentation says of options is what the table says. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { optionsPage, PAGE } from "../../../test/support/options-page.js";
import { optionTables } from "./check.js";
import type { Rules } from "./kinds.js";

test("docs/options.md has every option with its type, default and range", () => {
  assert.equal(readFileSync(PAGE, "utf8"), optionsPage(), "run: node dist/test/support/options-page.js");
});

test("every option says what it means", () => {
  const check = (rules: Rules, path: string) => {
    for (const [name, { meaning, kind }] of Object.entries(rules)) {
      assert.ok(meaning.length > 5, `${path}${name}`);
      check(kind.rules ?? {}, `${path}${name}.`);
    }
  };
  for (const { of, rules } of optionTables) check(rules, `${of} `);
});
