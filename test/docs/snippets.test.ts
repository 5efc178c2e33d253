/**
 * The code in README.md and docs/ compiles against the built package, strictly, and programs in it print what their
 * comments say. An error is named with the page and its line.
 */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import ts from "typescript";
import { loadAddon } from "../../src/os/addon.js";
import { finished, node, run, written } from "../support/runtimes.js";
import { suiteOwner, tempFolder } from "../support/temp.js";
import type { Block, Page } from "./pages.js";
import { blocksOf, packageRoot, readPages } from "./pages.js";

/** A block as a module of the project, with the lines of its page. */
interface Snippet {
  readonly page: string;
  readonly block: Block;
  readonly file: string;
}

const pages = readPages(["README.md", "docs"], /^docs\/decisions\//);
/** What code in the documentation imports from beside itself. */
const ROUTES = `
import type { ConnectRouter } from "@connectrpc/connect";
import { EchoService } from "./echo_pb.js";
export default (router: ConnectRouter) => void router.service(EchoService, { echo: ({ text }) => ({ text }) });
`;
const GENERATED = ["proto/echo_pb", "docs/reading_pb", "docs/snippets_pb"];

/** A package that has the dependencies of its users, the built package among them. */
function makeProject(folder: string): void {
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(packageRoot, join(folder, "node_modules/isthmus"));
  for (const scope of ["@bufbuild", "@connectrpc", "@grpc", "@types"])
    symlinkSync(join(packageRoot, "node_modules", scope), join(folder, "node_modules", scope));
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  writeFileSync(join(folder, "routes.ts"), ROUTES);
  for (const name of GENERATED) {
    const file = name.slice(name.indexOf("/") + 1);
    copyFileSync(join(packageRoot, "test", `${name}.ts`), join(folder, `${file}.ts`));
    copyFileSync(join(packageRoot, "dist/test", `${name}.js`), join(folder, `${file}.js`));
  }
}

function compilerOptions(folder: string): ts.CompilerOptions {
  const { config } = ts.readConfigFile(join(packageRoot, "tsconfig.json"), (path) => readFileSync(path, "utf8")) as {
    config: { compilerOptions: object };
  };
  const { options } = ts.convertCompilerOptionsFromJson(
    {
      ...config.compilerOptions,
      rootDir: ".",
      noEmit: true,
      declaration: false,
      sourceMap: false,
      inlineSources: false,
      incremental: false,
      tsBuildInfoFile: undefined,
      moduleDetection: "force",
      // A block shows how something is made, and leaves it there.
      noUnusedLocals: false,
      noUnusedParameters: false,
    },
    folder,
  );
  return options;
}

/** The code of a block, with what it leaves out. */
function codeOf({ preamble, text }: Block): string {
  return preamble === undefined ? text : `${preamble.text}\n${text}`;
}

/** Where on its page a line of a snippet stands; both count from 1. */
function pageLine({ preamble, line }: Block, snippetLine: number): number {
  const preambleLines = preamble === undefined ? 0 : preamble.text.split("\n").length;
  return snippetLine <= preambleLines ? preamble!.line + snippetLine - 1 : line + snippetLine - preambleLines - 1;
}

/** What the compiler says of all of the pages' code, as `page:line: text`. */
function compile(folder: string, ofPages: readonly Page[]): { snippets: Snippet[]; complaints: string[] } {
  const snippets: Snippet[] = [];
  const ambient: string[] = [];
  for (const { path, text } of ofPages) {
    for (const block of blocksOf(text)) {
      if (block.ambient !== undefined) ambient.push(block.ambient.text);
      if (block.language !== "ts") continue;
      const file = join(folder, `${path.replaceAll(/[/.]/g, "_")}_${block.line}.ts`);
      writeFileSync(file, codeOf(block));
      snippets.push({ page: path, block, file });
    }
  }
  const ambientFile = join(folder, "ambient.d.ts");
  writeFileSync(ambientFile, ambient.join("\n"));
  const byFile = new Map(snippets.map((snippet) => [snippet.file, snippet]));
  const program = ts.createProgram([ambientFile, ...byFile.keys()], compilerOptions(folder));
  const complaints = ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const text = ts.flattenDiagnosticMessageText(messageText, "\n");
    const snippet = file && byFile.get(file.fileName);
    if (file === undefined || snippet === undefined) return `${file?.fileName ?? "the compiler"}: ${text}`;
    const { line } = file.getLineAndCharacterOfPosition(start!);
    return `${snippet.page}:${pageLine(snippet.block, line + 1)}: ${text}`;
  });
  return { snippets, complaints };
}

/** Writes a block as a program that Node runs. */
function writeProgram({ file, block }: Snippet, edit = (code: string) => code): string {
  const { outputText } = ts.transpileModule(edit(codeOf(block)), {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 },
  });
  const program = file.replace(/ts$/, "js");
  writeFileSync(program, outputText);
  return program;
}

/** What the comments behind `console.log` say that a program prints. */
function expectedOutput({ text }: Block): string[] {
  return [...text.matchAll(/console\.log\(.*\);? \/\/ (.*)$/gm)].map(([, expected]) => expected);
}

describe("the code of the documentation", () => {
  const owner = suiteOwner();
  const folder = tempFolder(owner);
  let compiled: ReturnType<typeof compile>;
  before(() => {
    makeProject(folder);
    compiled = compile(folder, pages);
  });

  test("was found", () => {
    assert.ok(pages.length > 15, `only ${pages.length} pages`);
    assert.ok(compiled.snippets.length > 40, `only ${compiled.snippets.length} blocks`);
  });

  test("compiles", () => assert.deepEqual(compiled.complaints, []));

  test("prints what it says, where it is a program", async (context) => {
    const programs = compiled.snippets.filter(({ block }) => block.runs);
    assert.ok(programs.length >= 4, `only ${programs.length} programs`);
    for (const snippet of programs) {
      const { page, block } = snippet;
      const program = writeProgram(snippet);
      const { code, output } = await finished(run(context, node, program));
      assert.equal(code, 0, `${page}:${block.line}: ${output}`);
      const printed = output.split("\n").slice(0, -1);
      const expected = expectedOutput(block);
      assert.equal(printed.length, expected.length, `${page}:${block.line}: ${output}`);
      // A comment may explain the value behind it.
      for (const [at, line] of printed.entries())
        assert.equal(expected[at].split(/[:;] /)[0], line, `${page}:${block.line}`);
    }
  });

  test("works as README's server with its client, and with the blocking one", async (context) => {
    const find = (page: string, maker: string) =>
      compiled.snippets.find((snippet) => snippet.page === page && snippet.block.text.includes(`${maker}(`))!;
    const here = (code: string) => code.replace("/tmp/echo.sock", join(folder, "echo.sock"));
    const server = writeProgram(
      find("README.md", "createIsthmusServer"),
      (code) => `${here(code)}\nconsole.log("listening");`,
    );
    await written(run(context, node, server), "listening");
    const clients = [find("README.md", "createIsthmusTransport")];
    if (loadAddon().reason === undefined) clients.push(find("docs/blocking.md", "createBlockingClient"));
    for (const client of clients) {
      const { code, output } = await finished(run(context, node, writeProgram(client, here)));
      assert.equal(code, 0, output);
      assert.match(output, /^HELLO$/m);
    }
  });
});

test("a block that does not compile is named by page and line, and so is its preamble", (context) => {
  const folder = tempFolder(context);
  makeProject(folder);
  const text = [
    "# Title",
    "<!-- preamble:",
    "const wrong: number = 'text';",
    "-->",
    "```ts",
    'import { createIsthmusTransport } from "isthmus";',
    "createIsthmusTransport({ adress: 'unix:/tmp/echo.sock' });",
    "```",
    "",
    "```ts",
    "missing();",
    "```",
  ].join("\n");
  const { complaints } = compile(folder, [{ path: "docs/page.md", text }]);
  assert.deepEqual(
    complaints.map((complaint) => complaint.replace(/^(.*?:\d+): .*$/s, "$1")),
    ["docs/page.md:11", "docs/page.md:3", "docs/page.md:7"],
  );
});
