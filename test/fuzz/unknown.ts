/** Random unknown fields, and the wire primitives that hand-made input is built from. */
import type { DescMessage, UnknownField } from "@bufbuild/protobuf";
import type { Random } from "./random.js";

const FIELD_NUMBER_MAX = 2 ** 29 - 1;
const numbersOf = new Map<DescMessage, ReadonlySet<number>>();

/** Appends a varint of a 32-bit number, with `extra` bytes more than it needs. */
export function pushVarint(bytes: number[], value: number, extra = 0): void {
  let rest = value >>> 0;
  while (rest > 0x7f) {
    bytes.push((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  bytes.push(extra > 0 ? rest | 0x80 : rest);
  for (let i = extra; i > 0; i--) bytes.push(i > 1 ? 0x80 : 0);
}

export function pushTag(bytes: number[], fieldNumber: number, wireType: number): void {
  pushVarint(bytes, ((fieldNumber << 3) | wireType) >>> 0);
}

/** Fields that the schema does not know; seldom, one that it does know or that is malformed. */
export function randomUnknownFields(random: Random, schema: DescMessage): UnknownField[] {
  let known = numbersOf.get(schema);
  if (known === undefined) numbersOf.set(schema, (known = new Set(schema.fields.map((field) => field.number))));
  const fields: UnknownField[] = [];
  for (let i = random.below(4); i > 0; i--) {
    let no = random.once(2) ? 1 + random.below(40) : 1 + random.below(FIELD_NUMBER_MAX);
    const strange = random.once(100);
    while (!strange && known.has(no)) no = 1 + random.below(FIELD_NUMBER_MAX);
    const wireType = random.pick([0, 0, 1, 2, 2, 2, 3, 5]);
    const data: number[] = [];
    pushPayload(random, data, no, wireType, 3);
    if (strange && random.once(4)) data.pop();
    fields.push({ no, wireType, data: Uint8Array.from(data) });
  }
  return fields;
}

function pushPayload(random: Random, bytes: number[], fieldNumber: number, wireType: number, depth: number): void {
  switch (wireType) {
    case 0:
      for (let i = random.below(10); i > 0; i--) bytes.push(random.below(256) | 0x80);
      bytes.push(random.below(128));
      return;
    case 1:
      for (let i = 0; i < 8; i++) bytes.push(random.below(256));
      return;
    case 2: {
      const length = random.once(20) ? 127 + random.below(200) : random.below(12);
      pushVarint(bytes, length);
      for (let i = 0; i < length; i++) bytes.push(random.below(256));
      return;
    }
    case 3:
      for (let i = random.below(3); i > 0; i--) {
        const number = 1 + random.below(20);
        const type = random.pick(depth > 0 ? [0, 1, 2, 3, 5] : [0, 1, 2, 5]);
        pushTag(bytes, number, type);
        pushPayload(random, bytes, number, type, depth - 1);
      }
      pushTag(bytes, fieldNumber, 4);
      return;
    default:
      for (let i = 0; i < 4; i++) bytes.push(random.below(256));
  }
}
