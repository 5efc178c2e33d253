/**
 * A full garbage collection on request, for when a peer waits for memory that perhaps only garbage still holds here. It stops this thread for
 * milliseconds, for longer with a large heap: so only then, and rarely.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** A collection takes at most about this share of the time. */
const SHARE_MAX = 0.1;

let collect: (() => void) | false | undefined;
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

/** V8 hands its `gc` to realms that are made while the flag is set. */
function find(): (() => void) | false {
  try {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as (() => void) | undefined;
    if (globalThis.gc === undefined) setFlagsFromString("--no-expose-gc");
    return gc ?? false;
  } catch {
    return false;
  }
}
