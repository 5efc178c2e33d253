/**
 * Tracks what a client still has to send over a connection that the server goes away from.
 *
 * LEAVE-1  No request starts here except those that were accepted before and have not left yet: a message that waits
 *          for room, or a stream whose iterable has not yielded its first message yet. When the last of them has left
 *          or was given up, the client says `goAway` itself. So the server knows that it has read every request.
 */
export class GoAwayTracker {
  private readonly unsent: Set<number>;
  private readonly sayGoAway: () => void;

  /** @param unsent stream ids of the calls whose request has not left; owned by the tracker from now on */
  constructor(unsent: Set<number>, sayGoAway: () => void) {
    this.unsent = unsent;
    this.sayGoAway = sayGoAway;
    if (unsent.size === 0) sayGoAway();
  }

  /** A request has left, or never will. Unknown and repeated stream ids are ignored. */
  left(streamId: number): void {
    if (this.unsent.delete(streamId) && this.unsent.size === 0) this.sayGoAway();
  }
}
