/** What the documentation says of options is what the table says. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { optionsPage, PAGE } from "../../../test/support/options-page.js";
import { optionTables } from "./check.js";
import type { Rules } from "./kinds.js";
import { serverTable, transportTable } from "./table.js";

const documentation = new URL("../../../", import.meta.url);

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

test("README's table has options that there are, and none is missing but HTTP's", () => {
  const readme = readFileSync(new URL("README.md", documentation), "utf8");
  const rows = [
    ...readme
      .slice(readme.indexOf("## Options"), readme.indexOf("## The codec"))
      .matchAll(/^\| (`[^|]*`) \| ([^|]*) \|/gm),
  ];
  const names = rows.flatMap(([, cell, of]) =>
    [...cell.matchAll(/`([\w.]+)`/g)].map(([, name]) => [name, of] as const),
  );
  const has = (rules: Rules, name: string): boolean => {
    const [first, rest] = name.split(".");
    return Object.hasOwn(rules, first) && (rest === undefined || has(rules[first].kind.rules ?? {}, rest));
  };
  for (const [name, of] of names) {
    if (/both|transport/.test(of)) assert.ok(has(transportTable.rules, name), `${name} of the transport`);
    if (/both|server/.test(of)) assert.ok(has(serverTable.rules, name), `${name} of the server`);
  }
  for (const [name, { meaning }] of Object.entries({ ...transportTable.rules, ...serverTable.rules })) {
    assert.ok(
      meaning.startsWith("HTTP: ") || names.some(([known]) => known.split(".")[0] === name),
      `README lacks ${name}`,
    );
  }
});
