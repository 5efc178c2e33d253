/** A bar chart of the results as SVG, legible on light and on dark pages. */
import { micros, times } from "./report.js";
import { peerNames, type PeerName } from "./peers/peer.js";
import { timesFaster, type Row } from "./results.js";

interface Panel {
  title: string;
  hint: string;
  scenario: string;
  figure: "p50Us" | "megabytesPerSecond";
  unit: string;
}

const panels: readonly Panel[] = [
  {
    title: "One small call",
    hint: "64 B, one in flight, p50; shorter is better",
    scenario: "hot-64B-x1-two-cores",
    figure: "p50Us",
    unit: "µs",
  },
  {
    title: "Large payloads",
    hint: "1 MiB, one in flight; longer is better",
    scenario: "hot-1MiB-x1-two-cores",
    figure: "megabytesPerSecond",
    unit: "MB/s",
  },
];

const names: Record<PeerName, string> = {
  isthmus: "Isthmus",
  "isthmus-loans": "Isthmus, payloads in loans",
  "isthmus-passthrough": "Isthmus, no protobuf",
  "isthmus-socket": "Isthmus, over the socket",
  "isthmus-grpc-js": "grpc-js over Isthmus",
  "isthmus-1-worker": "Isthmus, server with 1 worker",
  "isthmus-4-workers": "Isthmus, server with 4 workers",
  connect: "Connect (gRPC, HTTP/2)",
  "grpc-js": "grpc-js",
  net: "net (raw socket)",
  zeromq: "ZeroMQ",
  worker: "worker_threads",
  "c-spin": "C, shared memory, spinning",
  "c-futex": "C, shared memory, futex",
  "c-eventfd": "C, shared memory, eventfd",
  "grpc-go": "grpc-go",
  "grpc-go-tuned": "grpc-go, tuned",
  "shmipc-go": "shmipc-go",
  "shmipc-go-tuned": "shmipc-go, tuned",
};

const width = 760;
const labelWidth = 180;
const valueWidth = 150;
const rowHeight = 26;
const barHeight = 16;
const panelHead = 56;

/** null if the run has no rows for it. */
export function drawChart(rows: readonly Row[], machine: string): string | null {
  const drawn: string[] = [];
  let y = 8;
  for (const panel of panels) {
    const measured = rows.filter((row) => row.scenario === panel.scenario && row[panel.figure] !== null);
    if (measured.length === 0) continue;
    measured.sort((a, b) => peerNames.indexOf(a.peer) - peerNames.indexOf(b.peer));
    drawn.push(drawPanel(panel, measured, y));
    y += panelHead + measured.length * rowHeight + 24;
  }
  if (drawn.length === 0) return null;
  const height = y + 28;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="Isthmus compared with other ways to call another process">
<style>
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .hint { font-size: 12px; fill: #59636e; }
  .bar { fill: #8c959f; }
  .ours { fill: #0f8a8a; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .value { font-variant-numeric: tabular-nums; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .hint { fill: #9198a1; }
    .bar { fill: #656c76; }
    .ours { fill: #2fb5b0; }
    .grid { stroke: #3d444d; }
  }
</style>
${drawn.join("\n")}
<text class="hint" x="0" y="${height - 8}">Logarithmic scales; the factor is against net. ${escape(machine)}</text>
</svg>
`;
}

function drawPanel({ title, hint, figure, unit }: Panel, rows: readonly Row[], top: number): string {
  const values = rows.map((row) => row[figure]!);
  const from = Math.floor(Math.log10(Math.min(...values)) - 0.2);
  const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(...values))));
  const plotWidth = width - labelWidth - valueWidth;
  const x = (value: number): number => ((Math.log10(value) - from) / (to - from)) * plotWidth;
  const net = rows.find((row) => row.peer === "net");
  const bottom = top + panelHead + rows.length * rowHeight;

  const grid = Array.from({ length: to - from + 1 }, (_, i) => {
    const at = (labelWidth + (i / (to - from)) * plotWidth).toFixed(1);
    const label = formatPower(10 ** (from + i));
    return `<line class="grid" x1="${at}" y1="${top + panelHead - 6}" x2="${at}" y2="${bottom}"/><text class="hint" x="${at}" y="${bottom + 13}" text-anchor="middle">${label}</text>`;
  });
  const bars = rows.map((row, i) => {
    const y = top + panelHead + i * rowHeight;
    const value = row[figure]!;
    const length = Math.max(2, x(value));
    const factor = row.peer === "net" ? "" : ` · ${times(timesFaster(row, net, figure))}`;
    const kind = row.peer.startsWith("isthmus") ? "bar ours" : "bar";
    return [
      `<text x="${labelWidth - 10}" y="${y + 13}" text-anchor="end">${names[row.peer]}</text>`,
      `<rect class="${kind}" x="${labelWidth}" y="${y}" width="${length.toFixed(1)}" height="${barHeight}" rx="2"/>`,
      `<text class="value" x="${(labelWidth + length + 8).toFixed(1)}" y="${y + 13}">${micros(value)} ${unit}${net === undefined ? "" : factor}</text>`,
    ].join("");
  });
  return [
    `<text class="title" x="0" y="${top + 16}">${title}</text><text class="hint" x="0" y="${top + 34}">${hint}</text>`,
    ...grid,
    ...bars,
  ].join("\n");
}

function formatPower(value: number): string {
  return value >= 1_000 ? `${value / 1_000}k` : String(Number(value.toPrecision(1)));
}

function escape(text: string): string {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
}
