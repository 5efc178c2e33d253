/** The table: binary inputs and what is to come of them, by the rules of the Protocol Buffers encoding. */
import type { Group } from "./case.js";
import { legacyGroups } from "./rows-legacy.js";
import { malformedGroups } from "./rows-malformed.js";
import { messageGroups } from "./rows-messages.js";
import { scalarGroups } from "./rows-scalars.js";
import { unknownGroups } from "./rows-unknown.js";

export const table: readonly Group[] = [
  ...scalarGroups,
  ...messageGroups,
  ...unknownGroups,
  ...malformedGroups,
  ...legacyGroups,
];
