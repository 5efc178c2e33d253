// Everything faked, `process.nextTick` too: over shared memory calls are answered all the same. No test runner, for
// that would stand still.
import { writeSync } from "node:fs";
import { useFakeTimers } from "sinon";

useFakeTimers();
const { callOverSharedMemory } = await import("../cases.mjs");
await callOverSharedMemory();
writeSync(1, "calls over shared memory are answered with everything faked\n");
process.exit();
