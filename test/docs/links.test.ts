/** Links of the documentation lead somewhere, and the files that it names exist. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import type { Page } from "./pages.js";
import { packageRoot, proseOf, readPages } from "./pages.js";

const pages = readPages([
  "README.md",
  "ARCHITECTURE.md",
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "SECURITY.md",
  "bench/README.md",
  "examples/README.md",
  "docs",
]);

/** The anchor that GitHub gives a heading. */
function anchorOf(heading: string): string {
  const plain = heading
    .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replaceAll("`", "")
    .trim();
  return plain
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(" ", "-");
}

function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading] of proseOf(text).matchAll(/^#+ (.*)$/gm)) {
    const anchor = anchorOf(heading);
    let unique = anchor;
    for (let count = 1; anchors.has(unique); count++) unique = `${anchor}-${count}`;
    anchors.add(unique);
  }
  return anchors;
}

/** What is found in the prose, with its line. */
function found(text: string, pattern: RegExp): { line: number; value: string }[] {
  return proseOf(text)
    .split("\n")
    .flatMap((line, at) => [...line.matchAll(pattern)].map(([, value]) => ({ line: at + 1, value })));
}

function brokenLinks({ path, text }: Page): string[] {
  return found(text, /\]\(([^)\s]+)\)/g).flatMap(({ line, value }) => {
    if (/^[a-z]+:/.test(value)) return [];
    const [file, anchor] = value.split("#");
    const isHere = file === "";
    const target = isHere ? path : normalize(join(dirname(path), decodeURI(file)));
    const at = `${path}:${line}: ${value}`;
    if (!isHere && !existsSync(join(packageRoot, target))) return [`${at}: there is no ${target}`];
    if (anchor === undefined || !target.endsWith(".md")) return [];
    const anchors = anchorsOf(isHere ? text : readFileSync(join(packageRoot, target), "utf8"));
    return anchors.has(anchor) ? [] : [`${at}: there is no heading of that name in ${target}`];
  });
}

test("every link of the documentation leads to a file and a heading that exist", () => {
  assert.ok(pages.length > 30, `only ${pages.length} pages were found`);
  assert.deepEqual(pages.flatMap(brokenLinks), []);
});

test("the files that the documentation names exist", () => {
  // Decisions keep the names of their time.
  const current = pages.filter(({ path }) => !/^docs\/decisions\/|^CHANGELOG/.test(path));
  const names = current.flatMap(({ path, text }) =>
    found(text, /`((?:src|native|test|bench|scripts|examples)\/[\w./-]*)`/g).map(({ line, value }) => ({
      at: `${path}:${line}`,
      value,
    })),
  );
  assert.ok(names.length > 50, `only ${names.length} names were found`);
  assert.deepEqual(
    names.filter(({ value }) => !existsSync(join(packageRoot, value))).map(({ at, value }) => `${at}: ${value}`),
    [],
  );
});

test("a link that leads nowhere is found, with its line", () => {
  const page = (text: string): Page => ({ path: "docs/page.md", text });
  assert.deepEqual(
    brokenLinks(page("# Title\n\n[here](#title) [http](http.md#browsers) [web](https://example.com)")),
    [],
  );
  assert.deepEqual(brokenLinks(page("# Title\n\n[gone](gone.md)")), [
    "docs/page.md:3: gone.md: there is no docs/gone.md",
  ]);
  assert.deepEqual(brokenLinks(page("# Title\n\n[gone](http.md#gone)")), [
    "docs/page.md:3: http.md#gone: there is no heading of that name in docs/http.md",
  ]);
});

test("anchors are made as GitHub makes them", () => {
  assert.equal(anchorOf("Protobuf's own tests"), "protobufs-own-tests");
  assert.equal(anchorOf("`createIsthmusChannel`"), "createisthmuschannel");
  assert.equal(anchorOf("Which carrier, and why"), "which-carrier-and-why");
  assert.deepEqual([...anchorsOf("# Same\n\n## Same\n\n```sh\n# no heading\n```")], ["same", "same-1"]);
});
