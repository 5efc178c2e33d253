/** What the codec asks of itself, and which of it a run has reached. */
import type { Verdict } from "../bars.js";
import { findRow, geometricMean, timesFasterThan, type CodecName, type CodecRow, type Kind } from "./rows.js";
import { literals } from "./literals.js";
import { shapeNames, shapes, type ShapeName } from "./shapes.js";

type Other = Extract<CodecName, "protobuf-es" | "protobufjs" | "protobufjs-static">;

const others: readonly Other[] = ["protobuf-es", "protobufjs", "protobufjs-static"];

const means: readonly [Kind, Other, number][] = [
  ["encode", "protobuf-es", 2.5],
  ["encode", "protobufjs", 1.3],
  ["encode", "protobufjs-static", 1.3],
  ["decode", "protobuf-es", 2],
  ["decode", "protobufjs", 1.1],
  ["decode", "protobufjs-static", 1.1],
];

const inPlace: readonly [Kind, ShapeName, number][] = [
  ["packed", "doubles", 100],
  ["packed-rope", "doubles", 100],
  ["view", "mixed", 5],
];

/** Encoding these allocates nothing. */
const encodedWithoutGarbage: readonly ShapeName[] = ["small", "nested", "mixed"];
/** Less than this, in bytes per message, is the measurement's own noise. */
const noiseBytes = 1;
/** Decoding allocates what its result takes, and little more. */
const decodeHeapMax = 1.05;
/** Half a percent for rounding: a ratio that prints as 1.00 is not a miss. */
const rounding = 0.005;

export function judgeCodecs(rows: readonly CodecRow[]): Verdict[] {
  return [
    ...means.map(([kind, than, atLeast]) => {
      const asked = `codec: ${kind} ${atLeast}× faster than ${than}`;
      return fastEnough(
        asked,
        "geometric mean",
        geometricMean(shapesOf(kind).map((shape) => timesFasterThan(rows, than, kind, shape))),
        atLeast,
      );
    }),
    ...(["encode", "decode", "views"] as const).map((kind) => {
      const worst = slowest(rows, kind);
      const asked = `codec: ${kind} of no shape slower than any`;
      return fastEnough(
        asked,
        worst === null ? "all shapes" : `${worst.shape}, ${worst.than}`,
        worst?.ratio ?? null,
        1,
      );
    }),
    ...inPlace.map(([kind, shape, atLeast]) =>
      fastEnough(
        `codec: ${kind} ${atLeast}× faster than decoding`,
        `${shape}, protobuf-es`,
        timesFasterThan(rows, "protobuf-es", kind, shape),
        atLeast,
      ),
    ),
    ...encodedWithoutGarbage.map((shape): Verdict => {
      const measured = findRow(rows, "isthmus", "encode", shape)?.heapBytesPerOp ?? null;
      const verdict = {
        asked: "codec: encode allocates nothing",
        scenario: shape,
        measured,
        atMost: noiseBytes,
        unit: "B",
      };
      return { ...verdict, holds: measured === null ? null : measured < noiseBytes };
    }),
    ...(Object.keys(literals) as ShapeName[]).map((shape): Verdict => {
      const mine = findRow(rows, "isthmus", "decode", shape)?.heapBytesPerOp ?? null;
      const least = findRow(rows, "literal", "decode", shape)?.heapBytesPerOp ?? null;
      const measured = mine === null || least === null || least <= 0 ? null : mine / least;
      const verdict = {
        asked: `codec: decode allocates at most ${decodeHeapMax}× the literal`,
        scenario: shape,
        measured,
        atMost: decodeHeapMax,
      };
      return { ...verdict, holds: measured === null ? null : measured <= decodeHeapMax };
    }),
  ];
}

function fastEnough(asked: string, scenario: string, measured: number | null, atLeast: number): Verdict {
  return { asked, scenario, measured, atLeast, holds: measured === null ? null : measured >= atLeast * (1 - rounding) };
}

/** The worst ratio of any shape to any other codec; null if a shape is missing everywhere. */
function slowest(rows: readonly CodecRow[], kind: Kind): { shape: ShapeName; than: Other; ratio: number } | null {
  const found = shapesOf(kind).flatMap((shape) =>
    others.map((than) => ({ shape, than, ratio: timesFasterThan(rows, than, kind, shape) })),
  );
  let worst: { shape: ShapeName; than: Other; ratio: number } | null = null;
  for (const { shape, than, ratio } of found) {
    if (ratio === null) return null;
    if (worst === null || ratio < worst.ratio) worst = { shape, than, ratio };
  }
  return worst;
}

function shapesOf(kind: Kind): ShapeName[] {
  return kind === "views" ? shapes.filter(({ hasBytes }) => hasBytes).map(({ name }) => name) : [...shapeNames];
}
