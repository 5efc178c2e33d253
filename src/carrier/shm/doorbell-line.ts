/** The socket between two processes that share memory, as the carrier uses it, and the carrier as the socket sees it. */
import type { Addon } from "../../os/addon.js";
import type { CarrierClosed } from "../carrier.js";

/** The part of the socket that regions need. */
export interface DescriptorLine {
  readonly addon: Addon;
  /** Sends a descriptor with its byte; never waits. False: it cannot be sent now, or never will be. */
  sendDescriptor(descriptor: number): boolean;
  /** Takes what is in the socket, including descriptors for `onDescriptors`. False if there was nothing. */
  fetch(): boolean;
}

/** Wakes the peer, and hears from it. In production this is the control socket. */
export interface DoorbellLine extends DescriptorLine {
  /** Wakes the peer; never blocks, never throws. False: it could not be done now and must be tried again. */
  ring(): boolean;
  /** Whether the line keeps the event loop alive; it does not at first. */
  keepAlive(on: boolean): void;
  close(): void;
}

/** What the socket tells its carrier. */
export interface DoorbellListener {
  /** The doorbell rang `rings` times since the last call. */
  onDoorbell(rings: number): void;
  /** Whether the socket may be read, which can bring descriptors. If not, frames have to be delivered before. */
  takesDescriptors(): boolean;
  /** Descriptors came over the line; they belong to the listener from now on. */
  onDescriptors(descriptors: readonly number[]): void;
  /** Number of descriptors that have arrived so far. */
  readonly arrivals: number;
  /** The peer is gone. */
  onHangup(): void;
  /** Ends the connection in a later turn, because a message may be being written now. */
  failSoon(detail: string): void;
  close(reason: CarrierClosed): void;
}
