/** Random values of every scalar type. Half of what is drawn lies at a boundary of its type or of its encoding. */
import { ScalarType } from "@bufbuild/protobuf";
import type { Random } from "./random.js";

const INT32 = [
  0, 1, -1, 2, 63, 64, -64, -65, 127, 128, 16383, 16384, 2097151, 2097152, 268435455, 268435456, 2147483647,
  -2147483648, -2147483647,
];
const UINT32 = [
  0, 1, 127, 128, 16383, 16384, 2097151, 2097152, 268435455, 268435456, 2147483647, 2147483648, 4294967294, 4294967295,
];
const INT64 = [
  ...[
    0n,
    1n,
    -1n,
    127n,
    128n,
    -64n,
    -65n,
    0x7fffffffn,
    0x80000000n,
    -0x80000000n,
    0xffffffffn,
    0x100000000n,
    -0x100000000n,
  ],
  ...[35n, 42n, 49n, 56n, 62n].flatMap((bits) => [(1n << bits) - 1n, 1n << bits, -(1n << bits), -(1n << bits) - 1n]),
  ...[2n ** 53n, 2n ** 53n + 1n, -(2n ** 53n) - 1n, 2n ** 63n - 1n, -(2n ** 63n), -(2n ** 63n) + 1n],
];
const UINT64 = [
  0n,
  1n,
  127n,
  128n,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  2n ** 53n + 1n,
  2n ** 56n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 2n,
  2n ** 64n - 1n,
];
const DOUBLE = [
  ...[
    0,
    -0,
    1,
    -1,
    NaN,
    Infinity,
    -Infinity,
    Number.MIN_VALUE,
    -Number.MIN_VALUE,
    2.2250738585072014e-308,
    2.225073858507201e-308,
  ],
  ...[
    Number.MAX_VALUE,
    -Number.MAX_VALUE,
    Number.EPSILON,
    2 ** 53,
    2 ** 53 + 2,
    0.1,
    1 / 3,
    2 ** 31,
    2 ** 32,
    -(2 ** 31),
  ],
];
/** Numbers that a float holds, and one that it rounds. */
const FLOAT = [
  0,
  -0,
  1,
  -1,
  NaN,
  Infinity,
  -Infinity,
  1.401298464324817e-45,
  -1.401298464324817e-45,
  1.1754943508222875e-38,
  3.4028234663852886e38,
  -3.4028234663852886e38,
  16777216,
  0.1,
];

/** Text of one to four bytes a character, what encoders get wrong, and what JavaScript treats in its own way. */
const TEXTS = [
  ...[
    "",
    "a",
    "\0",
    "\x7f",
    "\x80",
    "é",
    "ÿ",
    "\u07ff",
    "\u0800",
    "\u2028",
    "漢字",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\ufffd",
    "\ufeff",
    "\ufeffbom",
  ],
  ...[
    "😀",
    "\u{10000}",
    "\u{10ffff}",
    "👨‍👩‍👧",
    "\ud800",
    "\udc00",
    "a\ud83d",
    "\ude00b",
    "\ude00\ud83d",
    "\ud83d\ud83d\ude00",
    "é".repeat(64),
    "漢".repeat(42),
  ],
  ...[
    "__proto__",
    "constructor",
    "toString",
    "hasOwnProperty",
    "length",
    "0",
    "-1",
    "1",
    "01",
    "4294967295",
    "true",
    "null",
    "$typeName",
    "$unknown",
  ],
];
const CHARACTERS = ["a", "é", "漢", "😀", "\ud800"];
/** Lengths around which the length's own encoding grows, or a fast path ends. */
const LENGTHS = [30, 31, 32, 33, 34, 63, 64, 65, 126, 127, 128, 129, 255, 256, 257];
const LARGE_LENGTHS = [4094, 4095, 4096, 4097, 5000, 16382, 16383, 16384, 16385, 16386];

export function randomText(random: Random): string {
  const kind = random.below(64);
  if (kind < 20) return random.pick(TEXTS);
  if (kind < 48) return ascii(random, random.below(12));
  if (kind < 52) return ascii(random, random.pick(LENGTHS));
  if (kind === 52 && random.once(48)) return filled(random, random.pick(LARGE_LENGTHS));
  if (kind < 57) return filled(random, random.pick(LENGTHS));
  let text = "";
  for (let i = random.below(10); i >= 0; i--) text += random.once(8) ? random.pick(TEXTS) : random.pick(CHARACTERS);
  return text;
}

export function randomBytes(random: Random): Uint8Array {
  const kind = random.below(64);
  if (kind < 8) return new Uint8Array(0);
  if (kind < 52) return random.bytes(1 + random.below(12));
  if (kind < 60) return random.bytes(random.pick(LENGTHS));
  if (kind === 60) return random.bytes(300).subarray(7, 7 + random.below(280));
  if (kind === 61 && random.once(8)) return random.bytes(random.pick(LARGE_LENGTHS));
  return random.bytes(random.below(64));
}

function ascii(random: Random, length: number): string {
  let text = "";
  while (text.length < length) text += (random.bits() | 0x10000000).toString(36);
  return text.slice(0, length);
}

/** Text of about so many bytes, in characters of mixed or one kind. */
function filled(random: Random, byteLength: number): string {
  const character = random.pick(CHARACTERS);
  const width = character === "a" ? 1 : character === "é" ? 2 : character === "😀" ? 4 : 3;
  const rest = byteLength % width;
  const text = character.repeat((byteLength - rest) / width);
  return random.once(2) ? "x".repeat(rest) + text : text + "x".repeat(rest);
}

/** A function that draws values of this type as protobuf-es holds them. */
export function scalarSource(type: ScalarType, longAsString: boolean): (random: Random) => unknown {
  switch (type) {
    case ScalarType.STRING:
      return randomText;
    case ScalarType.BYTES:
      return randomBytes;
    case ScalarType.BOOL:
      return (random) => random.once(2);
    case ScalarType.DOUBLE:
      return (random) => (random.once(2) ? random.pick(DOUBLE) : (random.bits() - 2 ** 31) / 2 ** random.below(60));
    case ScalarType.FLOAT:
      return (random) =>
        random.once(2) ? random.pick(FLOAT) : Math.fround((random.bits() - 2 ** 31) / 2 ** random.below(60));
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
      return (random) => (random.once(2) ? random.pick(INT32) : (random.bits() | 0) >> random.below(32));
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return (random) => (random.once(2) ? random.pick(UINT32) : random.bits() >>> random.below(32));
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return longSource(INT64, (long, shift) => BigInt.asIntN(64, long) >> shift, longAsString);
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return longSource(UINT64, (long, shift) => long >> shift, longAsString);
  }
}

/** Also numbers and strings: protobuf-es takes each for a 64-bit integer. */
function longSource(
  boundaries: readonly bigint[],
  shifted: (long: bigint, shift: bigint) => bigint,
  longAsString: boolean,
): (random: Random) => unknown {
  return (random) => {
    const value = random.once(2)
      ? random.pick(boundaries)
      : shifted((BigInt(random.bits()) << 32n) | BigInt(random.bits()), BigInt(random.below(64)));
    if (random.once(24))
      return longAsString
        ? value
        : random.once(2) || value > 2n ** 53n || value < -(2n ** 53n)
          ? String(value)
          : Number(value);
    return longAsString ? String(value) : value;
  };
}

/** Own keys of a map object are strings; this draws one that stands for a key of the type. */
export function keySource(type: ScalarType): (random: Random) => string {
  if (type === ScalarType.BOOL) return (random) => (random.once(2) ? "true" : "false");
  const draw = scalarSource(type, true);
  return (random) => String(draw(random));
}
