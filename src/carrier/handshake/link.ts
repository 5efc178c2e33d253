/** What a handshake is given, and what it leads to. */
import type { ArenaGeometry, RingGeometry } from "../../memory/shm/layout.js";
import type { PeerCredentials } from "../../os/addon.js";
import type { Carrier } from "../carrier.js";

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
  readonly isolation: Isolation | undefined;
}

/**
 * How far the peer is trusted with memory that both have mapped.
 *
 * - "shared": large values are used where the peer wrote them. The peer could change them while they are read, so a
 *   value can change after it was checked. Only these values are exposed to that.
 * - "snapshot": each large value is copied once to private memory before anything looks at it.
 */
export type Isolation = "shared" | "snapshot";

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

/** The uid that stands for users who have no number in this user namespace. */
export const OVERFLOW_UID = 65534;

/** Whether the kernel says that the peer's process belongs to this process's user. */
export function isSameUser(peer: PeerCredentials): boolean {
  return peer.uid === process.getuid?.() && peer.uid !== OVERFLOW_UID;
}
