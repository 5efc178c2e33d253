/** What a part of the demo is given and what it hands back. */
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
  /** The analytics process that runs now; the last part replaces it. */
  analytics: AnalyticsProcess;
  readonly quick: boolean;
  /** When all of it has to be over, on the clock of `performance.now()`. */
  readonly endsAt: number;
}

export interface Verdict {
  readonly outcome: "PASS" | "FAILED" | "SKIPPED";
  /** One line: what was compared and found. */
  readonly summary: string;
}

export const passed = (summary: string): Verdict => ({ outcome: "PASS", summary });
export const failed = (summary: string): Verdict => ({ outcome: "FAILED", summary });
export const skipped = (summary: string): Verdict => ({ outcome: "SKIPPED", summary });
