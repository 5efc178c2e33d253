/**
 * Where bytes live: from ArrayBuffer to origin. Users hand plain `Uint8Array`s around; whoever sends or
 * releases them looks here for what they are. Memory without an entry is the ordinary heap.
 */

/** What an ArrayBuffer's memory is, and what became of it. */
export interface Origin {
  readonly kind: "loan" | "lease" | "region" | "file";
  /** Once the ArrayBuffer is detached: why, to be read after "its memory is gone: ". */
  readonly gone: string | undefined;
}

/** Makes a class's private fields fields of an object that is there already. */
export class Returned {
  constructor(target: object) {
    return target;
  }
}

/**
 * An entry: a field of the ArrayBuffer that nobody else can see. Not in a WeakMap, where an entry costs 0.5 to 1 µs,
 * most of it when garbage is collected (measured: Node 20 to 26; a field at most 0.2).
 */
class Entry extends Returned {
  #origin: Origin | undefined;

  static in(buffer: ArrayBufferLike): Origin | undefined {
    return #origin in buffer ? buffer.#origin : undefined;
  }

  static set(buffer: ArrayBufferLike, origin: Origin): void {
    (#origin in buffer ? buffer : new Entry(buffer)).#origin = origin;
  }
}

/**
 * Bytes that somebody may lose: loans that are neither sent nor returned, and leases that end with a scope, in this
 * thread. While there are none, a message can be kept as it is until it is sent, and small values need not be looked
 * up.
 */
export const ephemeral = { count: 0 };

/** Whether there ever was memory with an entry in this thread: else nobody has to look for it. */
export let originsSeen = false;

export function setOrigin(buffer: ArrayBufferLike, origin: Origin): void {
  originsSeen = true;
  Entry.set(buffer, origin);
}

export function originOf(bytes: ArrayBufferView): Origin | undefined {
  return Entry.in(bytes.buffer);
}

/** Why the memory behind a detached view is gone. */
export function explainGone(bytes: ArrayBufferView): string {
  return Entry.in(bytes.buffer)?.gone ?? "the ArrayBuffer is detached, because it was transferred or given away";
}
