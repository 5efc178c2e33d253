/** What part 1 shows of a log while it is counted and at its end: pure, no I/O. */
import type { Stats } from "./demo_pb.js";
import type { Tally } from "./feeder.js";
import type { Screen } from "./screen.js";
import { bar, count, padEnd, padStart, plural, printable, rough, sparkline } from "./text.js";

/** Styles and width of the screen. */
export type View = Pick<Screen, "width" | "bold" | "dim" | "red" | "green" | "yellow" | "cyan">;

export const TOP_PATHS = 3;
const STATUSES_SHOWN = 6;
const STATUS_CELLS = 15;
const LABEL = 14;
/** The rate of fewer lines says nothing. */
const RATED_LINES_MIN = 1000;

/** @param rates lines per second, one for each redraw so far; `running`: the last one is the rate now */
export function statsLines(view: View, stats: Stats, rates: readonly number[], running: boolean): string[] {
  const now = running && rates.length > 0 ? `   ${view.bold(`${rough(rates.at(-1)!)}/s`)}` : "";
  const rate = `${now}   ${view.cyan(sparkline(rates, Math.max(0, view.width - 50)))}`.trimEnd();
  return [
    label("lines") + view.bold(count(stats.lines)) + unparsed(view, stats) + rate,
    ...statusLines(view, stats),
    ...pathLines(view, stats),
  ];
}

/** The same in one line, for where nothing can be redrawn. */
export function statsNote(stats: Stats, seconds: number, rate: number): string {
  const statuses = stats.statuses
    .slice(0, STATUSES_SHOWN)
    .map(({ status, count: times }) => `${status}: ${count(times)}`);
  const top = stats.paths.length === 0 ? "" : `   top ${printable(stats.paths[0].path, 24)}`;
  return `   ${seconds.toFixed(1)} s  ${plural(stats.lines, "line")}  ${rough(rate)}/s   ${statuses.join("  ")}${top}`.trimEnd();
}

export function tallyLine(view: View, name: string, tally: Tally, remark: string): string {
  const rate = tally.lines >= RATED_LINES_MIN ? `${rough((tally.lines / tally.millis) * 1000)}/s` : "";
  return `   ${padEnd(name, 20)}${padStart(plural(tally.lines, "line"), 16)}  ${padStart(view.bold(rate), 12)}  ${view.dim(remark)}`;
}

function label(name: string): string {
  return `   ${padEnd(name, LABEL - 3)}`;
}

function unparsed(view: View, stats: Stats): string {
  const lines = stats.lines - stats.parsed;
  const parts = [
    ...(lines > 0n ? [view.yellow(`${count(lines)} unparsed`)] : []),
    ...(stats.lines > stats.newlines ? [view.dim("the last one without newline")] : []),
  ];
  return parts.length === 0 ? "" : ` (${parts.join(", ")})`;
}

function statusLines(view: View, stats: Stats): string[] {
  if (stats.statuses.length === 0) return [`${label("status")}–`];
  const most = Math.max(...stats.statuses.map((entry) => Number(entry.count)));
  const room = Math.max(1, Math.min(STATUSES_SHOWN, Math.floor((view.width - LABEL) / STATUS_CELLS)));
  const shown = [...stats.statuses].sort((a, b) => Number(b.count - a.count)).slice(0, room);
  const cells = shown
    .sort((a, b) => a.status - b.status)
    .map(({ status, count: times }) => {
      const colour = status >= 500 ? view.red : status >= 400 ? view.yellow : view.green;
      return `${view.bold(String(status))} ${colour(bar(Number(times) / most, 4))} ${count(times)}`;
    });
  const rest = stats.statuses.length - shown.length;
  return [label("status") + cells.join("  ") + (rest > 0 ? view.dim(`  + ${rest} more`) : "")];
}

function pathLines(view: View, stats: Stats): string[] {
  const nameWidth = Math.max(10, Math.min(34, view.width - 50));
  const most = Number(stats.paths[0]?.count ?? 1n);
  const lines = stats.paths.map(({ path, count: times }, at) => {
    const name = padEnd(printable(path, nameWidth), nameWidth);
    return `${label(at === 0 ? "top paths" : "")}${name} ${padStart(count(times), 9)} ${view.cyan(bar(Number(times) / most, 24))}`;
  });
  return lines.length === 0 ? [`${label("top paths")}–`] : lines;
}
