/** What the main process asks of a contestant's process, and what that answers. */
import type { Kind } from "./rows.js";
import type { ShapeName } from "./shapes.js";

export type CodecTask =
  /** Checks that everything is encoded and decoded right, and lists the rows. */
  | { do: "prepare" }
  /** Runs every row for about this long, and again, so that V8 has compiled it knowing all shapes. */
  | { do: "warm"; ms: number }
  /** Nanoseconds per message. */
  | { do: "time"; shape: ShapeName; kind: Kind; ms: number }
  /** Bytes allocated on the heap per message; null where Node cannot tell. */
  | { do: "heap"; shape: ShapeName; kind: Kind; ms: number };

export interface PreparedRow {
  readonly shape: ShapeName;
  readonly kind: Kind;
  readonly wireBytes: number;
  /** What is read of all its messages, the same for all who decode. */
  readonly sum: number;
}

export type CodecAnswer = { rows: PreparedRow[] } | { figure: number | null };
