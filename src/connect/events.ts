/**
 * Connection events for diagnostics, on channels of `node:diagnostics_channel`. They cost nothing without subscribers.
 */
import type { Channel } from "node:diagnostics_channel";
import { channel } from "node:diagnostics_channel";
import { inRootContext } from "../carrier/poll/root-context.js";
import type { ServerConnectionEvent, TransportStateEvent } from "./types/events.js";

export const transportState = channel("isthmus:transport:state");
export const serverConnection = channel("isthmus:server:connection");

/**
 * Publishes an event. Subscribers run in an async context of their own (CONTEXT-2), not in that of the call that caused
 * the event.
 */
export function tell(to: Channel, event: TransportStateEvent | ServerConnectionEvent): void {
  inRootContext(() => to.publish(event));
}
