/**
 * How shared words are read and written. `Atomics` fits; the model checker hands in its own to explore every
 * interleaving of the code that ships.
 *
 * WORDS-1: both operations are sequentially consistent. ECMAScript promises that for SharedArrayBuffer only; on the
 * external ArrayBuffers used here it rests on V8, which compiles both to the same instructions for either kind
 * (x86-64: `xchg` for a store, `mov` for a load; arm64: `stlr`, `ldar`).
 */
export interface WordAccess {
  load(words: Int32Array, index: number): number;
  store(words: Int32Array, index: number, value: number): number;
}
