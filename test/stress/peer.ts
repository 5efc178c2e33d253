/**
 * What every peer program shares: `obey` answers the test's commands, and all know `ready`, `observe` and `exit`.
 * A peer never outlives the test process: when the channel to it closes, it exits.
 */
import { ConnectError } from "@connectrpc/connect";
import { collectGarbage, observeSelf } from "./observe.js";

type Commands = Record<string, (argument: never) => unknown>;

interface Request {
  readonly id: number;
  readonly command: string;
  readonly argument: unknown;
}

export function obey(commands: Commands): void {
  const all: Commands = {
    ready: () => undefined,
    observe: async () => {
      await collectGarbage();
      return observeSelf();
    },
    exit: () => setImmediate(() => process.exit(0)),
    ...commands,
  };
  process.on("disconnect", () => process.exit(1));
  process.on("message", (request: Request) => void answer(all, request));
}

async function answer(commands: Commands, { id, command, argument }: Request): Promise<void> {
  try {
    const run = commands[command];
    if (run === undefined) throw new Error(`no command "${command}"`);
    const result = await run(argument as never);
    process.send!({ id, result: typeof result === "object" ? result : { value: result }.value });
  } catch (error) {
    process.send!({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
}

/** How a call ended badly, in a form that goes through the channel to the test. */
export interface Failure {
  readonly code: number;
  readonly message: string;
  /** When, on the clock that all processes of the machine share, in milliseconds. */
  readonly at: number;
}

export function failureOf(error: unknown): Failure {
  const failure = ConnectError.from(error);
  return { code: failure.code, message: failure.rawMessage, at: monotonicMs() };
}

/** The machine's monotonic clock in milliseconds: the same in every process. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
