/**
 * Garbage collections on request. A full one, for when a peer waits for memory that perhaps only garbage still holds here. It stops this thread for
 * milliseconds, for longer with a large heap: so only then, and rarely.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** A collection takes at most about this share of the time. */
const SHARE_MAX = 0.1;

type Collect = (options?: { type: "minor" }) => void;

let collect: Collect | false | undefined;
let notBefore = 0;

/** Collects, unless the last time was only a moment ago; then false. It blocks for milliseconds, more with a large heap. */
export function collectSoon(): boolean {
  const start = performance.now();
  if (start < notBefore) return false;
  collect ??= find();
  if (collect === false) return false;
  collect();
  const end = performance.now();
  notBefore = end + (end - start) / SHARE_MAX;
  return true;
}

/** Collects the young generation: what was made lately and is garbage by now. Takes tenths of a millisecond. */
export function collectYoung(): void {
  collect ??= find();
  if (collect !== false) collect({ type: "minor" });
}

/** V8 hands its `gc` to realms that are made while the flag is set. */
function find(): Collect | false {
  try {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as Collect | undefined;
    if (globalThis.gc === undefined) setFlagsFromString("--no-expose-gc");
    return gc ?? false;
  } catch {
    return false;
  }
}
