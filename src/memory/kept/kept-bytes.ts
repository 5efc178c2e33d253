/**
 * The private memory that a peer makes this side keep: messages that nobody has taken yet, requests whose handlers run,
 * answers that the peer does not read. Everything of one connection counts against one number.
 *
 * KEPT-1  What is kept is counted where it begins to be kept, and no later. A peer that has used up its share has
 *         nothing further kept for it: the call fails, with an error that names the limit. What is there already, and
 *         one message that exceeds the rest, is kept.
 * KEPT-2  A connection never has more than half of what the others of its thread leave. So the first one that takes all
 *         it can get leaves as much for the next.
 */

/** What all connections of a thread may keep together. */
export class KeptPool {
  readonly max: number;
  used = 0;

  constructor(max: number) {
    this.max = max;
  }
}

export class KeptBytes {
  private readonly max: number;
  private readonly pool: KeptPool;
  used = 0;

  /** @param max the connection's own limit, in bytes */
  constructor(max: number, pool: KeptPool) {
    this.max = max;
    this.pool = pool;
  }

  /** Whether nothing further may be kept. */
  get isFull(): boolean {
    return this.used >= this.max || this.used > this.pool.max - this.pool.used;
  }

  take(byteLength: number): void {
    this.used += byteLength;
    this.pool.used += byteLength;
  }

  give(byteLength: number): void {
    this.used -= byteLength;
    this.pool.used -= byteLength;
  }

  /** For errors: which limit is reached, and what helps. */
  explain(): string {
    const { used, max, pool } = this;
    const held = `this connection makes the server keep ${used} bytes of messages that were not taken or not answered`;
    return used >= max
      ? `${held}, its limit (limits.keptBytes ${max}); have fewer calls in flight, or read faster`
      : `${held}, and all connections together ${pool.used} of ${pool.max}, half of what its memory allows (limits.keptBytes); have fewer calls in flight, or read faster`;
  }
}

/** Counts nothing, so that connections share no state through it. */
class UnboundedKeptBytes extends KeptBytes {
  override take(): void {}
  override give(): void {}
}

/** For a side that trusts its peer: bounds nothing. */
export const UNBOUNDED: KeptBytes = new UnboundedKeptBytes(Infinity, new KeptPool(Infinity));
