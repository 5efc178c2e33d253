/**
 * How shared words are read and written. `Atomics` implements this interface. The model checker passes its own
 * implementation, to explore every interleaving of the code that ships.
 *
 * WORDS-1  Both operations are sequentially consistent. ECMAScript guarantees that only for SharedArrayBuffer. For the
 * external ArrayBuffers used here it depends on V8, which compiles both to the same instructions for either kind
 * (x86-64: `xchg` for a store, `mov` for a load; arm64: `stlr`, `ldar`).
 */
export interface WordAccess {
  load(words: Int32Array, index: number): number;
  store(words: Int32Array, index: number, value: number): number;
}
