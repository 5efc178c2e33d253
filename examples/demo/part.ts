/** The input and the result of a part of the demo. */
import type { IsthmusTransport } from "../../src/index.js";
import type { AnalyticsProcess, SocketFolder } from "./analytics-process.js";
import type { Children } from "./children.js";
import type { Screen } from "./screen.js";

export interface DemoContext {
  readonly screen: Screen;
  readonly children: Children;
  readonly sockets: SocketFolder;
  /** The one transport to the analytics process that all parts share. */
  readonly transport: IsthmusTransport;
  /** The analytics process that is running; the last part replaces it. */
  analytics: AnalyticsProcess;
  readonly quick: boolean;
  /** When the demo must be over, on the clock of `performance.now()`. */
  readonly endsAt: number;
}

export interface Verdict {
  readonly outcome: "PASS" | "FAILED" | "SKIPPED";
  /** One line that says what was compared and what was found. */
  readonly summary: string;
}

export const passed = (summary: string): Verdict => ({ outcome: "PASS", summary });
export const failed = (summary: string): Verdict => ({ outcome: "FAILED", summary });
export const skipped = (summary: string): Verdict => ({ outcome: "SKIPPED", summary });
