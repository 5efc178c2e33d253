/** What a handshake is given, and what it leads to. */
import type { ArenaGeometry, RingGeometry } from "../../memory/shm/layout.js";
import type { PeerCredentials } from "../../os/addon.js";
import type { Carrier } from "../carrier.js";
import type { Isolation } from "../trust.js";

export interface LinkOptions {
  /** "shm": shared memory or nothing; "socket": never shared memory. */
  readonly carrier: "auto" | "shm" | "socket";
  /** Why this end has no shared memory, if that is known beforehand. The peer is told. */
  readonly lack: string | undefined;
  readonly geometry: RingGeometry & ArenaGeometry;
  readonly handshakeTimeoutMs: number;
  readonly pollMicros: number;
  /** Streams that this side accepts at once. */
  readonly maxStreams: number;
  /** Bytes that each stream may send to this side before it is granted more. */
  readonly streamWindowBytes: number;
  /** Undefined: the kernel decides (`trust.ts`). */
  readonly isolation: Isolation | undefined;
}

export interface Link {
  readonly carrier: Carrier;
  /** The peer's process, if the kernel told. */
  readonly peer: PeerCredentials | undefined;
  /** Streams that may be open at once: the smaller of what both ends accept. */
  readonly maxStreams: number;
  /** The credit that each stream starts with, in bytes; undefined: the peer knows unary calls only. */
  readonly windows: StreamWindows | undefined;
}

/** How many bytes each stream may send before it is granted more. */
export interface StreamWindows {
  readonly own: number;
  readonly peer: number;
}
