/** Takes what a stream socket brings. */
export interface StreamReader {
  /** Memory for the next bytes, at least one byte long. */
  target(): Uint8Array;
  /** `byteLength` bytes came to the start of the last target. False: read no more until `resume`. */
  received(byteLength: number): boolean;
}
