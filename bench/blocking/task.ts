/** What the processes of this part agree on. */

/** How long a call takes its caller, by the median of the rounds. */
export interface BlockingRow {
  readonly client: BlockingClientName;
  readonly bytes: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly callsPerSecond: number;
  readonly cpuUsPerCall: number;
}

export const blockingClientNames = ["asynchronous", "blocking"] as const;
export type BlockingClientName = (typeof blockingClientNames)[number];
