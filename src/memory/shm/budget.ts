/**
 * How much shared memory this process may commit over all connections. Pages of a memfd are charged to the cgroup of
 * the process that touches them first. Committing past its limit is not an error: the kernel kills the process.
 */
export interface CommitBudget {
  /** Reserves `byteLength` bytes, or returns false. */
  take(byteLength: number): boolean;
  give(byteLength: number): void;
  /** For errors: the limit, where it comes from and how to raise it. */
  readonly explanation: string;
}

const FRACTION = 0.5;

/** @param memoryLimitBytes the cgroup's limit; undefined if there is none */
export function createCommitBudget(memoryLimitBytes: number | undefined): CommitBudget {
  const limit = memoryLimitBytes === undefined ? Infinity : Math.floor(memoryLimitBytes * FRACTION);
  let taken = 0;
  return {
    take(byteLength) {
      if (taken + byteLength > limit) return false;
      taken += byteLength;
      return true;
    },
    give(byteLength) {
      taken -= byteLength;
    },
    get explanation() {
      return (
        `shared memory is limited to ${limit} bytes, half of this cgroup's memory limit of ${String(memoryLimitBytes)}, ` +
        `and ${taken} are in use; raise the container's memory limit or send less at once`
      );
    },
  };
}
