/**
 * docs/options.md, generated from the tables of options. Run as a program it writes the page: `npm run build && node
 * dist/test/support/options-page.js`.
 */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { OptionTable } from "../../src/connect/options/check.js";
import { optionTables } from "../../src/connect/options/check.js";
import type { Rule, Rules } from "../../src/connect/options/kinds.js";
// Registers a table of its own.
import "../../src/grpc-js/channel.js";

export const PAGE = new URL("../../../docs/options.md", import.meta.url);

/** Additional text about a table. */
const NOTES: Readonly<Record<string, string>> = {
  createIsthmusTransport:
    'Options marked "HTTP" are for `http://` and `https://` addresses; other addresses ignore them. [HTTP](http.md#what-differs-from-shared-memory) says which have no effect there.',
  createIsthmusServer:
    "With `workers`, the module exports `routes`, `interceptors`, `contextValues`, `codec` and `shutdownSignal`: [workers](workers.md).",
  "server.listen":
    "`mode`, `gid` and `takeover` are for socket paths, `tls` is for `https://` addresses; elsewhere they are errors.",
  "router.service":
    'Also for `router.rpc`. They apply to one service or method. Options marked "HTTP" are Connect\'s and have no effect on other carriers.',
  "a blocking client's calls": "",
  createIsthmusChannel: "For `isthmus/grpc-js`. Options of grpc-js (`grpc.…`) are accepted and have no effect.",
};

export function optionsPage(): string {
  return `# Options

Every function that takes options checks them, and fails with \`InvalidArgument\` if an option is unknown or its value is out of range. The error names the option, what was expected and what was probably meant:

\`\`\`text
option readmaxbytes: there is no such option; did you mean readMaxBytes?
option mode: expected permission bits from 0 to 0o777, not 660; did you mean 0o660?
\`\`\`

An option that is \`undefined\` counts as not given. Options are copied: later changes of the object have no effect. Durations may be \`Infinity\`, or more than timers can count (24.8 days), unless the range says otherwise. Both mean forever.

A call's own \`timeoutMs\` works as in Connect: 0 and less lift the transport's \`defaultTimeoutMs\`. If it is not a number, the call fails with \`InvalidArgument\`.

${optionTables.map(section).join("\n")}`;
}

function section({ of, rules }: OptionTable): string {
  const note = NOTES[of] ?? "";
  const title = /^[\w.]+$/.test(of) ? `\`${of}\`` : of[0].toUpperCase() + of.slice(1);
  return `## ${title}

${note === "" ? "" : `${note}\n\n`}| option | type | default | range | meaning |
| --- | --- | --- | --- | --- |
${rows(rules, "").join("\n")}
`;
}

function rows(rules: Rules, path: string): string[] {
  return Object.entries(rules).flatMap(([name, rule]) => {
    const cells = [`\`${path}${name}\``, typeOf(rule), defaultOf(rule), rule.kind.range ?? "", rule.meaning];
    return [
      `| ${cells.map((cell) => cell.replaceAll("|", "\\|") || "–").join(" | ")} |`,
      ...rows(rule.kind.rules ?? {}, `${path}${name}.`),
    ];
  });
}

function typeOf({ kind: { type, unit } }: Rule): string {
  return unit === undefined || unit === "" ? type : `${type}, ${unit}`;
}

function defaultOf({ byDefault, isRequired, kind: { unit } }: Rule): string {
  if (isRequired === true) return "required";
  if (typeof byDefault !== "number") return byDefault ?? "";
  if (unit === "bytes" && byDefault > 0 && byDefault % 1024 === 0)
    return byDefault % (1 << 20) === 0 ? `${byDefault >> 20} MiB` : `${byDefault >> 10} KiB`;
  return byDefault.toLocaleString("en-US");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(PAGE, optionsPage());
