/**
 * Counts the lines of an access log: pure, no I/O. The analytics process keeps one `LogCounts` per log.
 *
 * What is counted is defined so that `wc` and `grep` can count it too, byte for byte (see `verify.ts`):
 *
 *   newlines  bytes 0x0A                                           wc -l
 *   bytes     all                                                  wc -c
 *   lines     newlines, plus one if the last line lacks its own
 *   parsed    lines that match  ^[^"]*] "[^"]*" [1-5][0-9][0-9]␠   LC_ALL=C grep -ac
 *   status    lines that match  ^[^"]*] "[^"]*" 404␠               LC_ALL=C grep -ac
 *
 * which is the common and the combined log format from the closing bracket of the time on. The path is the request's
 * second word up to a `?`.
 */

export interface PathTally {
  readonly path: string;
  readonly count: number;
}

const NEWLINE = 0x0a;
const SPACE = 0x20;
const QUOTE = 0x22;
const QUESTION_MARK = 0x3f;
const BRACKET = 0x5d;
const DIGIT_0 = 0x30;

const STATUS_MIN = 100;
const STATUS_MAX = 599;
const PATH_BYTES_MAX = 200;
/** A log may name more paths than memory should hold; those that come later are not ranked. */
const PATHS_MAX = 50_000;

export class LogCounts {
  lines = 0;
  newlines = 0;
  bytes = 0;
  parsed = 0;
  private readonly byStatus = new Float64Array(STATUS_MAX + 1);
  /** Keys hold one character per byte. */
  private readonly byPath = new Map<string, number>();

  /** Counts whole lines; only the last one may lack its newline. @returns how many */
  add(block: Uint8Array): number {
    const bytes = Buffer.from(block.buffer, block.byteOffset, block.byteLength);
    const linesBefore = this.lines;
    let start = 0;
    while (start < bytes.length) {
      const newline = bytes.indexOf(NEWLINE, start);
      const end = newline < 0 ? bytes.length : newline;
      this.lines++;
      if (newline >= 0) this.newlines++;
      this.countLine(bytes, start, end);
      start = end + 1;
    }
    this.bytes += bytes.length;
    return this.lines - linesBefore;
  }

  /** Statuses that occurred, in ascending order. */
  statuses(): { status: number; count: number }[] {
    const found = [];
    for (let status = STATUS_MIN; status <= STATUS_MAX; status++) {
      if (this.byStatus[status] > 0) found.push({ status, count: this.byStatus[status] });
    }
    return found;
  }

  /** The most frequent paths, the first one first; ties by name. */
  topPaths(limit: number): PathTally[] {
    const top: PathTally[] = [];
    for (const [path, count] of this.byPath) {
      if (limit === 0 || (top.length === limit && !isBefore({ path, count }, top[limit - 1]))) continue;
      let at = top.length;
      while (at > 0 && isBefore({ path, count }, top[at - 1])) at--;
      top.splice(at, 0, { path, count });
      if (top.length > limit) top.pop();
    }
    return top.map(({ path, count }) => ({ path: Buffer.from(path, "latin1").toString("utf8"), count }));
  }

  /** Counts the line in `bytes[start, end)`, which has no newline. */
  private countLine(bytes: Buffer, start: number, end: number): void {
    const open = findByte(bytes, QUOTE, start, end);
    // Before the request stand at least `] `.
    if (open - start < 2 || bytes[open - 1] !== SPACE || bytes[open - 2] !== BRACKET) return;
    const close = findByte(bytes, QUOTE, open + 1, end);
    // After it come a space, three digits, a space.
    if (close + 5 >= end || bytes[close + 1] !== SPACE || bytes[close + 5] !== SPACE) return;
    const hundreds = bytes[close + 2] - DIGIT_0;
    const tens = bytes[close + 3] - DIGIT_0;
    const ones = bytes[close + 4] - DIGIT_0;
    if (hundreds < 1 || hundreds > 5 || tens < 0 || tens > 9 || ones < 0 || ones > 9) return;
    this.parsed++;
    this.byStatus[hundreds * 100 + tens * 10 + ones]++;
    this.countPath(bytes, open + 1, close);
  }

  private countPath(bytes: Buffer, start: number, end: number): void {
    const from = findByte(bytes, SPACE, start, end) + 1;
    if (from > end) return;
    let to = from;
    const limit = Math.min(end, from + PATH_BYTES_MAX);
    while (to < limit && bytes[to] !== SPACE && bytes[to] !== QUESTION_MARK) to++;
    if (to === from) return;
    const path = bytes.toString("latin1", from, to);
    const count = this.byPath.get(path);
    if (count !== undefined) this.byPath.set(path, count + 1);
    else if (this.byPath.size < PATHS_MAX) this.byPath.set(path, 1);
  }
}

/** The position of `byte` in `bytes[start, end)`, or `end`. The distances are short, so a loop beats a call. */
function findByte(bytes: Buffer, byte: number, start: number, end: number): number {
  let at = start;
  while (at < end && bytes[at] !== byte) at++;
  return at;
}

function isBefore(a: PathTally, b: PathTally): boolean {
  return a.count > b.count || (a.count === b.count && a.path < b.path);
}
