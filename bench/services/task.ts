/** What the processes of this part agree on. */
import type { PeerName } from "../peers/peer.js";

export const serviceNames = ["gateway", "waits", "connections", "lines"] as const;
export type ServiceName = (typeof serviceNames)[number];

/** What a service did with a peer at one level. Figures are medians over the starts. */
export interface ServiceRow extends Record<keyof ServiceFigures, number | null> {
  readonly service: ServiceName;
  readonly peer: PeerName;
  /** Requests or calls in flight, connections, or producers. */
  readonly level: number;
  readonly starts: number;
  /** Why there are no figures; absent otherwise. */
  readonly skipped?: string;
  readonly failed?: string;
}

export interface LoadFigures {
  /** Requests, calls or lines. */
  readonly perSecond: number;
  readonly p50Us: number;
  readonly p99Us: number;
  /** Processor time per request, call or line: of the gateway or the client. */
  readonly callerCpuUs: number;
  /** The same of the backend or the server. */
  readonly serverCpuUs: number;
}

export interface ServiceFigures extends LoadFigures {
  /** What the silent server uses of a core after the load; null where it is not measured. */
  readonly silentCpuShare: number | null;
}

/** Of the gateway's replies. */
export const gatewayBytes = 64;
/** How long handlers wait before they answer. */
export const waitMs = 2;
/** Of calls to handlers that wait, and over many connections. */
export const callBytes = 64;
export const lineBytes = 100;
/** Between two lines of a producer. */
export const linePauseMs = 1;
