/**
 * The tables of options. Each function that takes options checks them against its table first. docs/options.md is
 * generated from the tables, and a test compares the two. The compiler makes sure that a table and its TypeScript type
 * have the same names.
 */
import type { LoanOptions, MapFileOptions } from "../types/payloads.js";
import type { OptionTable } from "./check.js";
import { tableOf } from "./check.js";
import { blockingCallRules, blockingRules, connectRules, transportCloseRules, transportRules } from "./client-rules.js";
import type { RulesOf } from "./common-rules.js";
import { durationOrNone } from "./common-rules.js";
import { DEFAULTS } from "./defaults.js";
import { anything, numberOf, signal } from "./kinds.js";
import { listenRules, routeRules, serverCloseRules, serverRules, workersRule } from "./server-rules.js";

// The tables are in the order of the documentation.

export const transportTable = tableOf("createIsthmusTransport", transportRules);
export const connectTable = tableOf("transport.connect", connectRules);
export const transportCloseTable = tableOf("transport.close", transportCloseRules);
export const serverTable = tableOf("createIsthmusServer", serverRules);
export const listenTable = tableOf("server.listen", listenRules);
export const serverCloseTable = tableOf("server.close", serverCloseRules);
export const routeTable = tableOf("router.service", routeRules);
export const blockingTable = tableOf("createBlockingClient", blockingRules);
export const blockingCallTable = tableOf("a blocking client's calls", blockingCallRules);

export const loanTable = tableOf("loan", {
  signal: { kind: signal, byDefault: "none", meaning: "Cancels the wait" },
  timeoutMs: {
    kind: durationOrNone,
    byDefault: DEFAULTS.loanTimeoutMs,
    meaning: "How long to wait while the arena is full; `Infinity` waits forever",
  },
} satisfies RulesOf<LoanOptions>);

export const mapFileTable = tableOf("mapFile", {
  offset: {
    kind: numberOf({ unit: "bytes", min: 0, isWhole: true }),
    byDefault: 0,
    meaning: "Offset in the file",
  },
  length: {
    kind: numberOf({ unit: "bytes", min: 0, isWhole: true }),
    byDefault: "to the end",
    meaning: "Number of bytes",
  },
} satisfies RulesOf<MapFileOptions>);

/** Options that cannot be sent to a thread. The routes module exports them. */
export const MODULE_OPTIONS = [
  "routes",
  "interceptors",
  "requestGate",
  "contextValues",
  "codec",
  "shutdownSignal",
] as const;

/** With `workers`, options of the routes module are refused with their own error, whatever their values are. */
export const workerServerTable: OptionTable = {
  of: serverTable.of,
  rules: {
    ...serverRules,
    ...Object.fromEntries(MODULE_OPTIONS.map((name) => [name, { kind: anything, meaning: "Exported by the module" }])),
    workers: { ...workersRule, isRequired: true },
  },
};
