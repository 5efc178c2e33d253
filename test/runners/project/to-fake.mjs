/**
 * All that libraries can fake but `process.nextTick`: Node's own sockets stand still without it, and so does node:test.
 */
export const toFake = [
  "setTimeout",
  "clearTimeout",
  "setInterval",
  "clearInterval",
  "setImmediate",
  "clearImmediate",
  "Date",
  "performance",
  "hrtime",
  "queueMicrotask",
];
