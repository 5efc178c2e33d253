/** What the two processes of this part agree on: a call's id says what its handler does, and with how many bytes. */

/**
 * Hand the request's bytes back · answer with a loan · take the request, and answer with the time at which the handler
 * began.
 */
export const OPERATION = { echo: 0, reply: 1, take: 2 } as const;
export type Operation = (typeof OPERATION)[keyof typeof OPERATION];

export function idOf(operation: Operation, byteLength: number): bigint {
  return (BigInt(byteLength) << 8n) | BigInt(operation);
}

export function readId(id: bigint): { operation: number; byteLength: number } {
  return { operation: Number(id & 0xffn), byteLength: Number(id >> 8n) };
}

/** The call times of loaned payloads and of small ones in the same loop, in µs. */
export interface FlatRow {
  readonly direction: "request" | "reply" | "echo";
  readonly byteLength: number;
  readonly small: Times;
  readonly large: Times;
  /** Values that were copied in all calls, on the client's side. */
  readonly copies: number;
}

export interface Times {
  readonly p50: number;
  readonly mean: number;
  readonly p99: number;
}

/** Heap payloads, from the call to the handler's entry, against a plain copy. */
export interface BandwidthRow {
  readonly byteLength: number;
  /** In 10⁹ bytes per second, by medians. */
  readonly call: number;
  readonly copy: number;
}

export interface PayloadResults {
  readonly flat: readonly FlatRow[];
  readonly bandwidth: readonly BandwidthRow[];
}
