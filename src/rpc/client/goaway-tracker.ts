/**
 * A client's leave of a connection that the server goes away from.
 *
 * LEAVE-1  No request begins here but those that were accepted before and have not left yet: a message that waits for
 *          room, a stream whose first message the user's iterable has not given yet. When the last of them has left, or
 *          was given up, the client says `goAway` itself; so the server knows that it has read every request there will
 *          be.
 */
export class GoAwayTracker {
  private readonly unsent: Set<number>;
  private readonly sayGoAway: () => void;

  /** @param unsent the stream ids of calls whose request has not left; taken over */
  constructor(unsent: Set<number>, sayGoAway: () => void) {
    this.unsent = unsent;
    this.sayGoAway = sayGoAway;
    if (unsent.size === 0) sayGoAway();
  }

  /** The request has left, or will not. Other streams, and what is said again, do not matter. */
  left(streamId: number): void {
    if (this.unsent.delete(streamId) && this.unsent.size === 0) this.sayGoAway();
  }
}
