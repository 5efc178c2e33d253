/**
 * docs/options.md, made from the table of options. Run as a program it writes the page: `npm run build && node
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

/** What is said of a table besides. */
const NOTES: Readonly<Record<string, string>> = {
  createIsthmusTransport:
    'Options that begin with "HTTP" are for `http://` and `https://` addresses; others ignore them. [HTTP](http.md#what-differs-from-shared-memory) says which have no effect there.',
  createIsthmusServer:
    "With `workers`, the module exports `routes`, `interceptors`, `contextValues`, `codec` and `shutdownSignal`: [workers](workers.md).",
  "server.listen":
    "`mode`, `gid` and `takeover` are for socket paths, `tls` is for `https://` addresses; elsewhere they are refused.",
  "router.service":
    'Also of `router.rpc`. They hold for the service, or method, alone. Options that begin with "HTTP" are Connect\'s and make no difference to other carriers.',
  "a blocking client's calls": "",
  createIsthmusChannel: "Of `isthmus/grpc-js`. grpc-js's own (`grpc.…`) may be among them and have no effect.",
};

export function optionsPage(): string {
  return `# Options

Every function that takes options refuses, with \`InvalidArgument\`, an option that there is not and a value that makes no sense. The error names the option, what was expected and what was probably meant:

\`\`\`text
option readmaxbytes: there is no such option; did you mean readMaxBytes?
option mode: expected permission bits from 0 to 0o777, not 660; did you mean 0o660?
\`\`\`

An option that is \`undefined\` counts as not given. Options are copied: later changes of the object have no effect. Durations may be \`Infinity\`, or more than timers can count (24.8 days), unless the range says otherwise: that is for ever.

A call's own \`timeoutMs\` means what it means in Connect: 0 and less lift the transport's \`defaultTimeoutMs\`. What is no number fails the call with \`InvalidArgument\`.

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
