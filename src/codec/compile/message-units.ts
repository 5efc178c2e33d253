/** What an empty message of a type takes. */
import type { DescMessage } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import type { Values } from "../wire/fields.js";
import { UNITS_PER_VALUE } from "../wire/work.js";

/** Bytes of memory, about: of an object, of a property, of an empty array, and of an empty map or oneof. */
const OBJECT_BYTES = 24;
const PROPERTY_BYTES = 8;
const ARRAY_BYTES = 32;
const MAP_BYTES = 56;

/** What an empty message counts (WORK-1). */
export function messageUnits(desc: DescMessage): number {
  let byteLength = OBJECT_BYTES;
  for (const value of Object.values(create(desc) as Values)) {
    byteLength += PROPERTY_BYTES;
    if (Array.isArray(value)) byteLength += ARRAY_BYTES;
    else if (typeof value === "object" && value !== null && !(value instanceof Uint8Array)) byteLength += MAP_BYTES;
  }
  return Math.max(UNITS_PER_VALUE, byteLength >>> 2);
}
