/**
 * How far a peer is trusted with memory that both have mapped, and why. The kernel decides unless the option does:
 * processes of one user in the same user, process id and mount namespaces can read and stop each other anyway, so
 * sharing memory takes nothing from them. Neighbouring containers are not such processes, even if both run as root.
 */
import type { Addon, Namespaces, PeerCredentials } from "../os/addon.js";

/**
 * How far the peer is trusted with memory that both have mapped.
 *
 * - "shared": large values are used where the peer wrote them. The peer can change them, and loans, while they are read.
 *   So a value can change after it was checked, and text that is made of such bytes can crash this process.
 * - "snapshot": each large value is copied once to private memory before anything looks at it, and the peer cannot write
 *   to this side's memory. Nothing that user code sees changes.
 */
export type Isolation = "shared" | "snapshot";

/** The isolation of one connection. */
export interface Trust {
  readonly isolation: Isolation;
  /** Why, as readable text. */
  readonly reason: string;
}

/** The uid that stands for users who have no number in this user namespace. */
export const OVERFLOW_UID = 65534;

const NAMESPACE_NAMES: Readonly<Record<keyof Namespaces, string>> = {
  user: "user",
  pid: "process id",
  mnt: "mount",
};

/** Used if a peer isolates itself, whatever this side does. */
export const PEER_ISOLATES: Trust = {
  isolation: "snapshot",
  reason: "the peer isolates itself: its memory is sealed against writing",
};

/** The kernel refuses to tell a process in a container about those outside, and others with more rights. */
const UNREADABLE = "the namespaces of the peer's process cannot be read, so it counts as one of another container";

let own: Namespaces | undefined;

/**
 * Decides for the peer of a connected socket.
 * @param option the user's choice, if there is one
 */
export function trustIn(addon: Addon, descriptor: number, peer: PeerCredentials, option: Isolation | undefined): Trust {
  if (option !== undefined) return { isolation: option, reason: `the option isolation is "${option}"` };
  const reason = whyNot(addon, descriptor, peer);
  return reason === undefined
    ? { isolation: "shared", reason: "the peer is a process of the same user in the same namespaces" }
    : { isolation: "snapshot", reason };
}

/** Whether the kernel says that the peer's process belongs to this process's user. */
export function isSameUser(peer: PeerCredentials): boolean {
  return peer.uid === process.getuid?.() && peer.uid !== OVERFLOW_UID;
}

function whyNot(addon: Addon, descriptor: number, peer: PeerCredentials): string | undefined {
  if (!isSameUser(peer)) return `the peer runs as another user (uid ${peer.uid})`;
  own ??= addon.ownNamespaces();
  const theirs = addon.peerNamespaces(descriptor);
  const kinds = Object.keys(NAMESPACE_NAMES) as (keyof Namespaces)[];
  // A difference says more than what could not be read.
  for (const kind of kinds)
    if (own[kind] !== 0 && theirs[kind] !== 0 && own[kind] !== theirs[kind])
      return `the peer is in another ${NAMESPACE_NAMES[kind]} namespace`;
  const isKnown = kinds.every((kind) => own?.[kind] !== 0 && theirs[kind] !== 0);
  return isKnown ? undefined : UNREADABLE;
}
