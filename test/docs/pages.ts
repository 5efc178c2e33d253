/** The documentation's pages, their blocks of code, and what hidden comments before a block say of it. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const packageRoot = fileURLToPath(new URL("../../../", import.meta.url));

export interface Page {
  /** Below the package's root. */
  readonly path: string;
  readonly text: string;
}

/** Code of several lines and where it starts on its page; lines count from 1. */
export interface Code {
  readonly line: number;
  readonly text: string;
}

export interface Block extends Code {
  readonly language: string;
  /** What the block leaves out: `<!-- preamble: … -->`. */
  readonly preamble: Code | undefined;
  /** Declarations of modules that are not installed, for all blocks of all pages: `<!-- ambient: … -->`. */
  readonly ambient: Code | undefined;
  /** `<!-- run -->`: a whole program that ends by itself. */
  readonly runs: boolean;
}

export function readPages(folders: readonly string[], without: RegExp = /$^/): Page[] {
  return folders
    .flatMap((path) =>
      path.endsWith(".md")
        ? [path]
        : readdirSync(join(packageRoot, path), { recursive: true, encoding: "utf8" }).map((name) => `${path}/${name}`),
    )
    .filter((path) => path.endsWith(".md") && !without.test(path))
    .sort()
    .map((path) => ({ path, text: readFileSync(join(packageRoot, path), "utf8") }));
}

/** All blocks of code. The comments of a block stand right before it. */
export function blocksOf(text: string): Block[] {
  const blocks: Block[] = [];
  const lines = text.split("\n");
  let comments = new Map<string, Code>();
  for (let at = 0; at < lines.length; at++) {
    const comment = /^<!-- ?(\w+):?(.*)$/.exec(lines[at]);
    const fence = /^(`{3,})(\w*)/.exec(lines[at]);
    if (comment !== null) {
      const [, kind, rest] = comment;
      const end = lines.findIndex((line, i) => i >= at && line.includes("-->"));
      if (end < 0) throw new Error(`line ${at + 1}: the comment does not end`);
      if (end > at && rest.trim() !== "") throw new Error(`line ${at + 1}: code of a comment starts on its own line`);
      comments.set(kind, { line: at + 2, text: lines.slice(at + 1, end).join("\n") });
      at = end;
    } else if (fence !== null) {
      const [, ticks, language] = fence;
      const end = lines.findIndex((line, i) => i > at && line === ticks);
      if (end < 0) throw new Error(`line ${at + 1}: the block does not end`);
      blocks.push({
        language,
        line: at + 2,
        text: lines.slice(at + 1, end).join("\n"),
        preamble: comments.get("preamble"),
        ambient: comments.get("ambient"),
        runs: comments.has("run"),
      });
      comments = new Map();
      at = end;
    } else {
      comments = new Map();
    }
  }
  return blocks;
}

/** The text with the code taken out; lines stay where they are. */
export function proseOf(text: string): string {
  const lines = text.split("\n");
  for (const { line, text: code } of blocksOf(text))
    for (let at = line - 1; at < line - 1 + code.split("\n").length; at++) lines[at] = "";
  return lines.join("\n");
}
