/** Options and results of the functions for large values. Types only. */

/** Options of `loan`. */
export interface LoanOptions {
  /** Cancels the wait. With a handler's context, the end of the call cancels it too. */
  readonly signal?: AbortSignal;
  /**
   * How long to wait while the arena is full, in milliseconds; 10,000 by default. `Infinity`, and more than timers can
   * count (24.8 days), waits forever.
   */
  readonly timeoutMs?: number;
}

/** Options of `mapFile`. */
export interface MapFileOptions {
  /** Offset in the file, in bytes; 0 by default. */
  readonly offset?: number;
  /** Number of bytes; up to the end of the file by default. */
  readonly length?: number;
}

/** The right to a received message's large values, or to a loan, as an object for `using`. */
export interface PayloadLease extends Disposable {
  /** See `release`. */
  release(): void;
  /** See `retain`. */
  retain(): void;
}
