/**
 * Runs one campaign as a program, so that it can be done without code generation
 * (`--disallow-code-generation-from-strings`):
 *
 *     ISTHMUS_FUZZ_CASES=1000000 ISTHMUS_SEED=7 node dist/test/fuzz/run.js
 *
 * `ISTHMUS_FUZZ_CASES` is the number of random messages and also that of mutated inputs; `ISTHMUS_FUZZ_FIRST` the case
 * to begin with; `ISTHMUS_FUZZ_CODEC` a module that exports the functions to test. Exits with 1 if there are
 * differences.
 */
import { loadApi } from "./api.js";
import { runCampaign } from "./fuzz.js";
import { schemas } from "./schemas.js";

const PROGRESS_MS = 30_000;
/** A case takes well under a millisecond; one that takes so long does work that its input does not warrant. */
const CASE_MS_MAX = 60_000;

const seed = Number(process.env["ISTHMUS_SEED"] ?? Math.floor(Math.random() * 2 ** 32)) >>> 0;
const cases = Number(process.env["ISTHMUS_FUZZ_CASES"] ?? 10_000);
const first = Number(process.env["ISTHMUS_FUZZ_FIRST"] ?? 0);

console.log(`seed ${seed} (ISTHMUS_SEED=${seed} repeats it), ${codeGeneration() ? "with" : "without"} code generation`);
const started = performance.now();
let shown = started;
const report = runCampaign({
  api: await loadApi(),
  seed,
  messages: cases,
  mutations: cases,
  first,
  onProgress: (done, failures) => {
    if (performance.now() - shown < PROGRESS_MS) return;
    shown = performance.now();
    console.log(`${done} of ${2 * cases} cases, ${failures} failures, ${Math.round((shown - started) / 1000)} s`);
  },
});
const seconds = (performance.now() - started) / 1000;
for (const { typeName } of schemas) {
  console.log(
    `${String(report.messages.get(typeName) ?? 0).padStart(8)} messages ${String(report.mutations.get(typeName) ?? 0).padStart(8)} mutations  ${typeName}`,
  );
}
const [messages, mutations] = [report.messages, report.mutations].map((counts) =>
  [...counts.values()].reduce((sum, count) => sum + count, 0),
);
console.log(
  `${messages} messages and ${mutations} mutations of ${schemas.length} types in ${seconds.toFixed(1)} s; the slowest took ${report.slowestMs.toFixed(0)} ms`,
);
for (const failure of report.failures) {
  console.log(
    `\nFAILED ${failure.check}: ${failure.detail}\n  ${failure.kind} ${failure.case} of ${failure.schema}; repeat it with ISTHMUS_SEED=${seed} ISTHMUS_FUZZ_FIRST=${failure.case} ISTHMUS_FUZZ_CASES=1`,
  );
  console.log(`  smallest: ${failure.shrunk}`);
}
if (report.slowestMs > CASE_MS_MAX) console.log(`\nFAILED: a case took ${report.slowestMs.toFixed(0)} ms`);
process.exitCode = report.failures.length === 0 && report.slowestMs <= CASE_MS_MAX ? 0 : 1;

function codeGeneration(): boolean {
  try {
    return globalThis.eval("true") as boolean;
  } catch {
    return false;
  }
}
