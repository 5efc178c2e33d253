/** The campaign: every case has a number, and follows from the seed and that number alone. */
import type { DescMessage } from "@bufbuild/protobuf";
import { toBinary } from "@bufbuild/protobuf";
import { inspect } from "node:util";
import type { CodecApi } from "./api.js";
import { checkHostileRope, checkInput, checkMessage, checkMismatched, hex, Mismatch } from "./checks.js";
import { randomMessage, type Loose } from "./messages.js";
import { mutate } from "./mutate.js";
import { Random } from "./random.js";
import { mismatched, schemas } from "./schemas.js";
import { shrinkBytes, shrinkMessage } from "./shrink.js";
import { corrupt, toInit } from "./variants.js";

export interface Campaign {
  readonly api: CodecApi;
  readonly seed: number;
  /** Random messages, and mutated inputs. */
  readonly messages: number;
  readonly mutations: number;
  /** The case to begin with; cases of messages and of mutations are numbered alike. */
  readonly first?: number;
  /** Different failures after which it is enough; 10 by default. */
  readonly failuresMax?: number;
  readonly onProgress?: (done: number, failures: number) => void;
}

export interface Failure {
  readonly check: string;
  readonly detail: string;
  readonly schema: string;
  readonly case: number;
  readonly kind: "message" | "mutation";
  /** The case, as small as it could be made. */
  readonly shrunk: string;
}

export interface Report {
  readonly failures: readonly Failure[];
  /** By type name. */
  readonly messages: ReadonlyMap<string, number>;
  readonly mutations: ReadonlyMap<string, number>;
  /** The time of the slowest case, in milliseconds. */
  readonly slowestMs: number;
}

/** How often the reader of a message is one with another schema, that it is an initialiser, that it is corrupt. */
const MISMATCHED_ONCE_IN = 4;
const VARIANT_ONCE_IN = 8;
const PROGRESS_CASES = 256;

export function runCampaign({
  api,
  seed,
  messages,
  mutations,
  first = 0,
  failuresMax = 10,
  onProgress,
}: Campaign): Report {
  const report = {
    failures: [] as Failure[],
    messages: new Map<string, number>(),
    mutations: new Map<string, number>(),
    slowestMs: 0,
  };
  const seen = new Set<string>();
  const run = (kind: Failure["kind"], number: number) => {
    const schema = schemas[number % schemas.length];
    const counts = kind === "message" ? report.messages : report.mutations;
    counts.set(schema.typeName, (counts.get(schema.typeName) ?? 0) + 1);
    const started = performance.now();
    const mismatch =
      kind === "message" ? messageCase(api, seed, number, schema) : mutationCase(api, seed, number, schema);
    report.slowestMs = Math.max(report.slowestMs, performance.now() - started);
    if (mismatch === undefined || seen.has(mismatch.check)) return;
    seen.add(mismatch.check);
    const shrunk = mismatch.shrink();
    report.failures.push({
      check: mismatch.check,
      detail: mismatch.detail,
      schema: schema.typeName,
      case: number,
      kind,
      shrunk,
    });
  };
  for (let i = 0; i < Math.max(messages, mutations) && report.failures.length < failuresMax; i++) {
    if (i < messages) run("message", first + i);
    if (i < mutations) run("mutation", first + i);
    if (i % PROGRESS_CASES === 0) onProgress?.(Math.min(i, messages) + Math.min(i, mutations), report.failures.length);
  }
  return report;
}

interface Found {
  readonly check: string;
  readonly detail: string;
  readonly shrink: () => string;
}

function messageCase(api: CodecApi, seed: number, number: number, schema: DescMessage): Found | undefined {
  const random = new Random(seed, number);
  const message = randomMessage(random, schema);
  let check = (candidate: Loose, choices: Random) => checkMessage(api, schema, candidate, choices);
  if (random.once(VARIANT_ONCE_IN)) {
    if (random.once(2)) corrupt(random, schema, message);
    else check = (candidate, choices) => checkMessage(api, schema, toInit(candidate), choices);
  } else if (random.once(MISMATCHED_ONCE_IN)) {
    const reader = random.once(2) ? random.pick(mismatched) : random.pick(schemas);
    const writer = mismatched.includes(reader) ? random.pick(mismatched) : schema;
    const written = writer === schema ? message : randomMessage(random, writer);
    return found(
      (candidate) => checkMismatched(api, writer, reader, candidate, new Random(~seed, number)),
      written,
      shrinkMessage,
      (small) => `${writer.typeName} read as ${reader.typeName}: ${showMessage(writer, small)}`,
    );
  }
  return found(
    (candidate) => check(candidate, new Random(~seed, number)),
    message,
    shrinkMessage,
    (small) => showMessage(schema, small),
  );
}

function mutationCase(api: CodecApi, seed: number, number: number, schema: DescMessage): Found | undefined {
  const random = new Random(seed ^ 0x5bd1e995, number);
  const bytes = bytesOf(randomMessage(random, schema));
  const other = bytesOf(randomMessage(random, schema));
  const hostile = random.once(3);
  const input = hostile && random.once(2) ? bytes : mutate(random, bytes, other, schema);
  return found(
    (candidate) => {
      const choices = new Random(~seed, number);
      if (hostile) checkHostileRope(api, schema, candidate, choices);
      checkInput(api, schema, candidate, choices);
    },
    input,
    shrinkBytes,
    (small) => hex(small),
  );

  function bytesOf(message: Loose): Uint8Array {
    try {
      return toBinary(schema, message);
    } catch {
      return new Uint8Array(0);
    }
  }
}

/** Runs the check, and tells how to make the case small if it fails. */
function found<T>(
  check: (subject: T) => void,
  subject: T,
  shrink: (subject: T, fails: (subject: T) => boolean) => T,
  show: (subject: T) => string,
): Found | undefined {
  const mismatch = mismatchOf(check, subject);
  if (mismatch === undefined) return undefined;
  return {
    check: mismatch.check,
    detail: mismatch.message,
    shrink: () => {
      const small = shrink(subject, (candidate) => mismatchOf(check, candidate)?.check === mismatch.check);
      const detail = mismatchOf(check, small)?.message ?? "no longer";
      return `${show(small)} (${detail})`;
    },
  };
}

function mismatchOf<T>(check: (subject: T) => void, subject: T): Mismatch | undefined {
  try {
    check(subject);
    return undefined;
  } catch (error) {
    if (error instanceof Mismatch) return error;
    // What protobuf-es does without an error was an error here.
    return new Mismatch(
      `no error (${error instanceof Error ? error.name : typeof error})`,
      error instanceof Error ? (error.stack ?? error.message) : "thrown",
    );
  }
}

function showMessage(schema: DescMessage, message: Loose): string {
  let bytes: string;
  try {
    bytes = hex(toBinary(schema, message));
  } catch (error) {
    bytes = error instanceof Error ? error.message : "no bytes";
  }
  return `${inspect(message, { depth: 8, maxArrayLength: 10, maxStringLength: 60, breakLength: Infinity })} = ${bytes}`;
}
