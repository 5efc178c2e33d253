/**
 * How much shared memory this process may commit over all connections. Pages of a memfd are charged to the cgroup of
 * the process that touches them first. Committing past its limit is not an error: the kernel kills the process.
 *
 * BUDGET-1  A connection never has more than half of what the others leave. What is too much for its share travels
 *           through the ring instead. So a peer that keeps blocks leaves memory for the other connections.
 * BUDGET-2  Before a connection is refused memory, other connections return what they have committed and do not use.
 */
export interface CommitBudget {
  /** Reserves `byteLength` bytes, or returns false. */
  take(byteLength: number): boolean;
  give(byteLength: number): void;
  /** For errors: the limit, where it comes from and how to raise it. */
  readonly explanation: string;
}

/** What one connection may commit. */
export interface CommitShare extends CommitBudget {
  /** Called when others need memory: gives back what is not used. Set by the connection. */
  onPressure: (() => void) | undefined;
  /** The connection is over, and has given everything back. */
  close(): void;
}

/** What the process may commit. Used directly, it is for memory that belongs to no connection. */
export interface ProcessBudget extends CommitBudget {
  share(): CommitShare;
}

const FRACTION = 0.5;

/** @param memoryLimitBytes the cgroup's limit; undefined if there is none */
export function createCommitBudget(memoryLimitBytes: number | undefined): ProcessBudget {
  const limit = memoryLimitBytes === undefined ? Infinity : Math.floor(memoryLimitBytes * FRACTION);
  const shares = new Set<CommitShare>();
  let taken = 0;

  /** @param maxBytes most that may be taken in all after it */
  const take = (byteLength: number, mayTake: () => boolean, asks: CommitShare | undefined): boolean => {
    if (!mayTake()) {
      // BUDGET-2
      for (const share of shares) if (share !== asks) share.onPressure?.();
      if (!mayTake()) return false;
    }
    taken += byteLength;
    return true;
  };
  const give = (byteLength: number): void => {
    taken -= byteLength;
  };
  const explain = (held: string): string =>
    `shared memory is limited to ${limit} bytes, half of this cgroup's memory limit of ${String(memoryLimitBytes)}, ` +
    `and ${held}; raise the container's memory limit or send less at once`;

  const makeShare = (): CommitShare => {
    let own = 0;
    const share: CommitShare = {
      onPressure: undefined,
      take(byteLength) {
        // BUDGET-1
        const mayTake = () => own + byteLength <= (limit - (taken - own)) / 2;
        if (!take(byteLength, mayTake, share)) return false;
        own += byteLength;
        return true;
      },
      give(byteLength) {
        own -= byteLength;
        give(byteLength);
      },
      close: () => void shares.delete(share),
      get explanation() {
        return explain(
          `${taken} are in use, ${own} of them by this connection, which may have half of what others leave`,
        );
      },
    };
    shares.add(share);
    return share;
  };

  return {
    take: (byteLength) => take(byteLength, () => taken + byteLength <= limit, undefined),
    give,
    share: makeShare,
    get explanation() {
      return explain(`${taken} are in use`);
    },
  };
}
