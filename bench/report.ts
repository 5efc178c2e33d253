/** The results as text: a table for each scenario. */
import { timesFaster, type Row } from "./results.js";

export const legend = [
  "call: µs from the call to its promise. +payload: the same with writing every byte before and reading every byte after.",
  "calls/s and MB/s include that work; MB are 10⁶ bytes of payload, requests and replies counted. Figures are medians over the rounds, then over the starts.",
  "CPU: µs per call of client and server together, and of each. heap: bytes per call on the client's V8 heap, without array buffers' memory.",
  "÷net, ÷isthmus: how many times faster than that peer, by call p50 and by calls/s.",
].join("\n");

export type Column<R> = readonly [title: string, cell: (row: R) => string];

/** The rows of one scenario, which it has been given in the order of the peers. */
export function formatScenario(title: string, rows: readonly Row[]): string {
  const find = (peer: string): Row | undefined => rows.find((row) => row.peer === peer);
  const against = (row: Row, peer: string): string =>
    row.peer === peer
      ? ""
      : `${times(timesFaster(row, find(peer), "p50Us"))} ${times(timesFaster(row, find(peer), "callsPerSecond"))}`;
  const columns: Column<Row>[] = [
    ["peer", (row) => row.peer],
    ["call p50", (row) => micros(row.p50Us)],
    ["p99", (row) => micros(row.p99Us)],
    ["p99.9", (row) => micros(row.p999Us)],
    ["+payload p50", (row) => micros(row.withPayloadP50Us)],
    ["calls/s", (row) => count(row.callsPerSecond)],
    ["MB/s", (row) => micros(row.megabytesPerSecond)],
    ["CPU", (row) => micros(row.cpuUsPerCall)],
    ["client", (row) => micros(row.clientCpuUsPerCall)],
    ["server", (row) => micros(row.serverCpuUsPerCall)],
    ["heap", (row) => count(row.heapBytesPerCall)],
    ["÷net", (row) => against(row, "net")],
    ["÷isthmus", (row) => against(row, "isthmus")],
  ];
  const measured = rows.filter((row) => row.rounds > 0);
  const left = rows.filter((row) => row.rounds === 0);
  return [
    title,
    ...(measured.length > 0 ? formatTable(columns, measured) : []),
    ...left.map(
      (row) =>
        `  ${row.peer}: ${row.failed === undefined ? `skipped: ${row.skipped}` : `FAILED: ${firstLine(row.failed)}`}`,
    ),
  ].join("\n");
}

/** A line of titles and one for each row, aligned. */
export function formatTable<R>(columns: readonly Column<R>[], rows: readonly R[]): string[] {
  const cells = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, cell]) => cell(row)))];
  const widths = columns.map((_, column) => Math.max(...cells.map((line) => line[column].length)));
  return cells.map((line) =>
    `  ${line.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join("  ")}`.trimEnd(),
  );
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0];
}

/** Three significant digits at least, no more decimals than that takes. */
export function micros(value: number | null): string {
  if (value === null) return "–";
  const decimals = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return group(value.toFixed(decimals));
}

export function count(value: number | null): string {
  return value === null ? "–" : group(value.toFixed(0));
}

export function times(value: number | null): string {
  if (value === null) return "–";
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)}×`;
}

function group(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+(?!\d))(?<!\.\d*)/g, " ");
}
