/** Parses the command line: pure, no I/O. */
import { parseArgs } from "node:util";

/** Where part 1 takes its lines from. */
export type LogRequest =
  | { readonly kind: "traffic" }
  | { readonly kind: "stdin" }
  | { readonly kind: "file"; readonly path: string; readonly follow: boolean };

export interface DemoOptions {
  readonly log: LogRequest;
  readonly quick: boolean;
}

/** The command line is wrong, or the file that it names: exit code 2. */
export class UsageError extends Error {}

export const HELP = `Usage: npm run demo [-- OPTIONS] [-- FILE]

Shows in four parts, within 30 seconds, what Isthmus does between two processes, and checks it.

  npm run demo                 starts a web server, sends it requests and follows its access log
  npm run demo -- FILE         reads FILE once
  npm run demo -- -f FILE      reads FILE and follows it as it grows, for 8 seconds or until Ctrl-C
  npm run demo -- -            reads the standard input, for at most 8 seconds

  1  Log lines go by typed calls to an analytics process, which counts them; wc and grep count them too.
  2  One Connect client over gRPC (HTTP/2 on a Unix socket) and over Isthmus, side by side.
  3  A large file in one call, hashed on the other side; sha256sum hashes it too.
  4  kill -9 of the server while 64 calls are pending, and a new server for the same client.

  -f, --follow   follow FILE as it grows
      --quick    short measurements: part 1 at most 2 seconds, part 2 half a second per transport
  -h, --help     this text

Lines are expected in the common or combined log format; others are counted as unparsed. A file that takes longer than
8 seconds is read up to there, and checked up to there. Logs that the demo makes itself are kept in the system's
folder for temporary files. NO_COLOR is respected.

Exit codes: 0 all verified, 1 something differs or failed, 2 wrong arguments or no such file.
`;

/** @returns undefined if help is asked for. @throws UsageError */
export function parseDemoArguments(args: readonly string[]): DemoOptions | undefined {
  const { values, positionals } = parse(args);
  if (values.help === true) return undefined;
  if (positionals.length > 1)
    throw new UsageError(`one file at most, but ${positionals.length} are given: ${positionals.join(" ")}`);
  return { log: logRequest(positionals[0], values.follow === true), quick: values.quick === true };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        follow: { type: "boolean", short: "f" },
        quick: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    // Node adds advice about `--` to the first sentence, of no use here.
    throw new UsageError((error as Error).message.split(". ")[0]);
  }
}

function logRequest(name: string | undefined, follow: boolean): LogRequest {
  if (name === undefined) {
    if (follow) throw new UsageError("-f needs a FILE");
    return { kind: "traffic" };
  }
  if (name === "") throw new UsageError("the name of the file is empty");
  if (name === "-") return { kind: "stdin" };
  return { kind: "file", path: name, follow };
}
