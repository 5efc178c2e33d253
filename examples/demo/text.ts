/** How numbers, bars and untrusted text look on the screen: pure, no I/O. */

const EIGHTHS = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
const LEVELS = "▁▂▃▄▅▆▇█";
// eslint-disable-next-line no-control-regex -- the sequences that this program writes itself
const STYLE = /\x1b\[[0-9;]*m/g;

/** 12,345 */
export function count(value: number | bigint): string {
  return Math.round(Number(value))
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ",");
}

export function plural(value: number | bigint, noun: string): string {
  return `${count(value)} ${noun}${Number(value) === 1 ? "" : "s"}`;
}

/** Three significant digits: 3.42, 34.2, 342, 3,420. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value >= 99.95) return count(value);
  return value.toFixed(value >= 9.995 ? 1 : 2);
}

/** A whole number with at most three digits that say something: 312,000 and not 311,847. */
export function rough(value: number): string {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(Math.max(value, 1))) - 2);
  return count(Math.round(value / unit) * unit);
}

export function megabytes(bytes: number): string {
  return `${figure(bytes / 1e6)} MB`;
}

/** A bar of `fraction` of `width` cells, to an eighth of a cell; never empty for more than nothing. */
export function bar(fraction: number, width: number): string {
  if (!(fraction > 0)) return "";
  const eighths = Math.max(1, Math.round(Math.min(fraction, 1) * width * 8));
  return "█".repeat(Math.floor(eighths / 8)) + EIGHTHS[eighths % 8];
}

/** The last `width` values as a row of columns. */
export function sparkline(values: readonly number[], width: number): string {
  const shown = values.slice(-width);
  const largest = Math.max(...shown, 1);
  return shown
    .map((value) => LEVELS[Math.min(LEVELS.length - 1, Math.floor((value / largest) * LEVELS.length))])
    .join("");
}

/**
 * Text out of a log, safe to print: nothing in it can move the cursor, and it is as wide as it is long.
 * What is not printable ASCII becomes a dot.
 */
export function printable(text: string, width: number): string {
  const safe = text.slice(0, width + 1).replace(/[^\x20-\x7e]/g, "·");
  return safe.length > width ? `${safe.slice(0, width - 1)}…` : safe;
}

/** How many cells it takes; every character that this program prints takes one. */
export function widthOf(text: string): number {
  return text.replace(STYLE, "").length;
}

/** Cuts to `width` cells; styles stay whole and are ended. */
export function clip(text: string, width: number): string {
  if (widthOf(text) <= width) return text;
  let cells = 0;
  let clipped = "";
  // eslint-disable-next-line no-control-regex -- the same
  for (const part of text.split(/(\x1b\[[0-9;]*m)/)) {
    if (part.startsWith("\x1b")) {
      clipped += part;
    } else {
      clipped += part.slice(0, width - cells);
      cells += Math.min(part.length, width - cells);
    }
  }
  return clipped;
}

export function padEnd(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - widthOf(text)));
}

export function padStart(text: string, width: number): string {
  return " ".repeat(Math.max(0, width - widthOf(text))) + text;
}
