/**
 * The terminal: styles if it has them, a block that is redrawn in place if possible, plain lines otherwise. Nothing else
 * writes to the standard output.
 */
import { clip } from "./text.js";

const WIDTH_MAX = 100;
/** Redraw in place only if the block surely fits: lines that scrolled away cannot be redrawn. */
const ROWS_MIN = 16;

const HIDE_CURSOR = "\x1b[?25l";
const SHOW_CURSOR = "\x1b[?25h";
const CLEAR_BELOW = "\x1b[J";

export class Screen {
  /** Whether `live` redraws; otherwise `note` prints. */
  readonly inPlace: boolean;
  private readonly out: NodeJS.WriteStream;
  private readonly coloured: boolean;
  private liveLines = 0;

  constructor(out: NodeJS.WriteStream, env: NodeJS.ProcessEnv) {
    this.out = out;
    const capable = out.isTTY && env["TERM"] !== "dumb";
    this.inPlace = capable && out.rows >= ROWS_MIN;
    this.coloured = capable && (env["NO_COLOR"] ?? "") === "";
  }

  /** Cells per line. */
  get width(): number {
    return Math.min(this.out.columns || WIDTH_MAX, WIDTH_MAX);
  }

  readonly bold = (text: string) => this.styled(1, text);
  readonly dim = (text: string) => this.styled(2, text);
  readonly red = (text: string) => this.styled(31, text);
  readonly green = (text: string) => this.styled(32, text);
  readonly yellow = (text: string) => this.styled(33, text);
  readonly cyan = (text: string) => this.styled(36, text);

  /** Prints lines for good, in place of the live ones. */
  print(...lines: string[]): void {
    this.out.write(`${this.takeBack()}${lines.join("\n")}\n`);
  }

  /** Shows lines until the next `live`, `print` or `end`; does nothing if that is not possible. */
  live(lines: readonly string[]): void {
    if (!this.inPlace) return;
    const width = Math.max(1, (this.out.columns || WIDTH_MAX) - 1);
    const shown = lines.map((line) => clip(line, width));
    // In one write, so that no half-drawn block is ever seen.
    this.out.write(`${this.takeBack()}${HIDE_CURSOR}${shown.join("\n")}\n`);
    this.liveLines = shown.length;
  }

  /** Shows progress if `live` shows nothing. */
  note(line: string): void {
    if (!this.inPlace) this.out.write(`${line}\n`);
  }

  /** Removes the live lines and shows the cursor again. May be called at any time, even twice. */
  end(): void {
    if (this.inPlace) this.out.write(this.takeBack());
  }

  private takeBack(): string {
    if (this.liveLines === 0) return "";
    const up = `\x1b[${this.liveLines}A\r${CLEAR_BELOW}${SHOW_CURSOR}`;
    this.liveLines = 0;
    return up;
  }

  private styled(code: number, text: string): string {
    return this.coloured ? `\x1b[${code}m${text}\x1b[0m` : text;
  }
}
