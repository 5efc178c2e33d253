/**
 * The table of a client connection's open calls. A call has a slot from its start to its end.
 *
 * CALL-1  A stream id is slot + generation. The generation changes with every call, so a late answer to a call that has
 *         been given up finds no call and is dropped.
 */
import { clearTimeout } from "../../os/timers.js";
import { SLOT_BITS, SLOTS_MAX } from "../../wire/frame.js";
import { ClientCall, nothing } from "./client-call.js";

export class CallTable {
  /** Number of open calls. */
  size = 0;
  private readonly calls: ClientCall[] = [];
  private readonly freeSlots: number[] = [];

  /** Gives a new call a slot. */
  take(): ClientCall {
    let slot = this.freeSlots.pop();
    if (slot === undefined) {
      slot = this.calls.length;
      this.calls.push(new ClientCall(slot));
    }
    const call = this.calls[slot];
    // Starts at 1: stream id 0 is the connection itself.
    call.generation = (call.generation % (SLOTS_MAX - 1)) + 1;
    call.streamId = ((call.generation << SLOT_BITS) | slot) >>> 0;
    call.active = true;
    this.size++;
    return call;
  }

  /** The open call with this stream id. */
  find(streamId: number): ClientCall | undefined {
    const call = this.calls[streamId & (SLOTS_MAX - 1)] as ClientCall | undefined;
    return call !== undefined && isOpen(call, streamId) ? call : undefined;
  }

  /** The open calls. Calls that end or start meanwhile may be missing or included. */
  *open(): Generator<ClientCall, void> {
    for (const call of this.calls) if (call.active) yield call;
  }

  /** Ends a call, drops what it has received, and frees its slot. */
  release(call: ClientCall): void {
    call.active = false;
    call.resolve = nothing;
    call.reject = nothing;
    if (call.timer !== undefined) {
      clearTimeout(call.timer);
      call.timer = undefined;
    }
    if (call.signal !== undefined) {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is set with the signal
      call.signal.removeEventListener("abort", call.onAbort!);
      call.signal = undefined;
      call.onAbort = undefined;
    }
    call.reassembler?.received.drop();
    call.reassembler = undefined;
    call.metadata = undefined;
    this.freeSlots.push(call.slot);
    this.size--;
  }
}

/** Whether a slot's call is still the one with this stream id. */
export function isOpen(call: ClientCall, streamId: number): boolean {
  return call.active && call.streamId === streamId;
}
