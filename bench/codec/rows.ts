/** What is measured of whom, and the ratios that follow. */
import type { ShapeName } from "./shapes.js";

/** In the order of the reports and of the rounds. */
export const codecNames = ["isthmus", "protobuf-es", "protobufjs", "protobufjs-static", "literal"] as const;
export type CodecName = (typeof codecNames)[number];

/**
 * `decode`: `bytes` fields are copies. `views`: they are parts of the input. `packed`, `packed-rope`: a few of 10 000
 * doubles are read, from contiguous bytes or a rope. `view`: two of 30 fields are read.
 */
export const kinds = ["encode", "decode", "views", "packed", "packed-rope", "view"] as const;
export type Kind = (typeof kinds)[number];

export interface CodecRow {
  readonly codec: CodecName;
  readonly kind: Kind;
  readonly shape: ShapeName;
  /** Of one message's wire form, on average. */
  readonly wireBytes: number;
  /** Medians over the rounds; null if there are none. */
  readonly nsPerOp: number | null;
  /** Allocated on the V8 heap. */
  readonly heapBytesPerOp: number | null;
  readonly rounds: number;
  /** Why there are no figures; absent otherwise. */
  readonly skipped?: string;
  readonly failed?: string;
}

export function findRow(rows: readonly CodecRow[], codec: CodecName, kind: Kind, shape: string): CodecRow | undefined {
  return rows.find((row) => row.codec === codec && row.kind === kind && row.shape === shape);
}

/** How many times faster Isthmus is than another; null if one of them has no figure. */
export function timesFasterThan(rows: readonly CodecRow[], than: CodecName, kind: Kind, shape: string): number | null {
  const mine = findRow(rows, "isthmus", kind, shape)?.nsPerOp ?? null;
  const theirs = findRow(rows, than, kind, shape)?.nsPerOp ?? null;
  return mine === null || theirs === null || mine <= 0 ? null : theirs / mine;
}

/** Of the given shapes' ratios; null if one is missing, since a mean of fewer would be another figure. */
export function geometricMean(values: readonly (number | null)[]): number | null {
  if (values.length === 0 || values.some((value) => value === null || value <= 0)) return null;
  return Math.exp(values.reduce<number>((sum, value) => sum + Math.log(value!), 0) / values.length);
}
