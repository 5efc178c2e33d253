/**
 * The demo: starts the analytics process, runs the four parts, reports whether every claim holds, and leaves nothing
 * running.
 */
import { rmSync } from "node:fs";
import { createIsthmusTransport } from "../../src/index.js";
import type { SocketFolder } from "./analytics-process.js";
import { createSocketFolder, startAnalytics } from "./analytics-process.js";
import type { DemoOptions } from "./arguments.js";
import { HELP, parseDemoArguments, UsageError } from "./arguments.js";
import { Children } from "./children.js";
import { runComparison } from "./compare.js";
import { runCrash } from "./crash.js";
import { runLargeFile } from "./large-file.js";
import { openRequestedLog, runLogPart } from "./log-part.js";
import type { LogSource } from "./log-source.js";
import type { DemoContext, Verdict } from "./part.js";
import { failed } from "./part.js";
import { Screen } from "./screen.js";

/** From the start of the process, where `performance.now()` is 0. */
const MILLIS_MAX = 30_000;
const EXIT = { verified: 0, failed: 1, usage: 2 };
const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

const screen = new Screen(process.stdout, process.env);
const children = new Children();
let sockets: SocketFolder | undefined;
/** Set while Ctrl-C ends part 1 only. */
let interruptible: AbortController | undefined;
/** A log that the demo makes itself, until it is checked; from then on it is the user's. */
let unfinishedLog: string | undefined;

process.stdout.on("error", () => leave(EXIT.failed)); // the reader has gone
for (const [name, number] of Object.entries(SIGNALS)) {
  process.on(name, () => {
    if (name === "SIGINT" && interruptible?.signal.aborted === false) return interruptible.abort();
    leave(128 + number);
  });
}

await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<void> {
  let options: DemoOptions | undefined;
  let source: LogSource;
  try {
    options = parseDemoArguments(args);
    if (options === undefined) {
      process.stdout.write(HELP);
      return;
    }
    source = await openRequestedLog(options.log);
  } catch (error) {
    const wrongUse = error instanceof UsageError;
    process.stderr.write(`demo: ${messageOf(error)}${wrongUse ? " (--help says more)" : ""}\n`);
    process.exitCode = wrongUse ? EXIT.usage : EXIT.failed;
    return;
  }
  if (options.log.kind !== "file") unfinishedLog = source.path;
  const tooLong = setTimeout(() => {
    screen.print("", screen.red(`FAILED: not done within ${MILLIS_MAX / 1000} seconds`));
    leave(EXIT.failed);
  }, MILLIS_MAX - performance.now());
  const { line, verified } = conclusion(
    await runParts(options, source).catch((error: unknown) => [failed(messageOf(error))]),
  );
  clearTimeout(tooLong);
  await source.close();
  screen.print("", screen.bold(verified ? screen.green(line) : screen.red(line)));
  leave(verified ? EXIT.verified : EXIT.failed);
}

function conclusion(verdicts: readonly Verdict[]): { line: string; verified: boolean } {
  const having = (outcome: Verdict["outcome"]) => verdicts.filter((verdict) => verdict.outcome === outcome);
  const seconds = `${(performance.now() / 1000).toFixed(1)} s`;
  const wrong = having("FAILED");
  if (wrong.length > 0) return { line: `FAILED: ${wrong.map(({ summary }) => summary).join("; ")}`, verified: false };
  const left = having("SKIPPED").length === 0 ? "" : `, ${having("SKIPPED").length} skipped`;
  return {
    line: `verified: ${having("PASS").length} of ${verdicts.length} parts${left}, in ${seconds}`,
    verified: true,
  };
}

async function runParts(options: DemoOptions, source: LogSource): Promise<Verdict[]> {
  sockets = createSocketFolder();
  const analytics = await startAnalytics(children, sockets, true);
  const transport = createIsthmusTransport({ address: sockets.address });
  const context: DemoContext = {
    screen,
    children,
    sockets,
    transport,
    analytics,
    quick: options.quick,
    endsAt: MILLIS_MAX,
  };
  const interrupt = new AbortController();
  const following = options.log.kind !== "traffic";

  const parts: { title: string; run: () => Promise<Verdict> }[] = [
    {
      title: "Real-time log processing",
      run: async () => {
        if (following) interruptible = interrupt;
        return runLogPart(context, options.log, source, interrupt.signal).finally(
          () => (interruptible = unfinishedLog = undefined),
        );
      },
    },
    { title: "The same client, one line changed", run: () => runComparison(context) },
    { title: "A large file in one call", run: () => runLargeFile(context) },
    { title: "kill -9 the server", run: () => runCrash(context) },
  ];

  screen.print(
    `${screen.bold("Isthmus")}  typed calls through shared memory   ` +
      screen.dim(`this process: ${process.pid} · analytics process: ${analytics.program.pid}`),
  );
  const verdicts: Verdict[] = [];
  for (const [at, { title, run }] of parts.entries()) {
    screen.print("", screen.bold(`${at + 1}  ${title}`));
    const verdict = await run().catch((error: unknown) => failed(messageOf(error)));
    const colour = { PASS: screen.green, FAILED: screen.red, SKIPPED: screen.yellow }[verdict.outcome];
    screen.print(`   ${screen.bold(colour(verdict.outcome))}  ${verdict.summary}`);
    verdicts.push(verdict);
  }
  await transport.close();
  await context.analytics.program.stop();
  return verdicts;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The only exit, also from a signal handler, so nothing here waits. */
function leave(exitCode: number): never {
  screen.end();
  children.killAll();
  sockets?.remove();
  if (unfinishedLog !== undefined) rmSync(unfinishedLog, { force: true });
  process.exit(exitCode);
}
