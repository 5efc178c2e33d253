/**
 * What a run of the model is given: what the two sides do, how much room they have, and what is broken, if anything.
 */
import type { Bell, Sleeper } from "../../src/memory/shm/doorbell.js";
import type { WordAccess } from "../../src/memory/shm/words.js";
import type { Model } from "./explorer.js";
import type { ModelCarrier } from "./side.js";

/**
 * Side A serves: what a dead client had asked it need not deliver. Side B delivers all that a dead server had answered.
 */
export const SERVER = 0;

/** What the two sides do, and how much room they have. */
export interface Scenario {
  readonly name: string;
  /** What each side's user sends: bursts, in this order, each whenever he likes. */
  readonly sends: readonly [readonly Burst[], readonly Burst[]];
  readonly ringBytes: number;
  readonly releaseSlots: number;
  /** Blocks that fit each arena. */
  readonly blocks: number;
  /** The users send their first burst before anything else happens. */
  readonly eager: boolean;
  /** Whether sleeping sides are served without waking them (POLL-6). */
  readonly servesAsleep?: boolean;
  /** In how many steps a frame's bytes are stored, and loaded. */
  readonly frameSteps: number;
  readonly deaths: boolean;
  readonly buffered: Model["buffered"];
  readonly statesMax: number;
  /** Whether the memory is held against RING-1, -2, -3 and BELL-2; without it a defect shows by what comes of it. */
  readonly invariants: boolean;
  /** A defect, for showing that the model finds it. */
  readonly defect?: Defect;
}

/** A frame without a payload, or a message that travels in two blocks. */
export type Send = "frame" | "message";
export type Burst = readonly Send[];

/** A broken carrier: replaces parts of a carrier or of the loop around it. */
export interface Defect {
  /** Changes a carrier that was just made; `inner` are its private parts. */
  readonly patch?: (carrier: ModelCarrier, inner: CarrierParts) => void;
  /** The doorbell's bytes are taken after waking and draining instead of before (BELL-3). */
  readonly takesLate?: boolean;
  /** A frame's bytes are stored after its tail is published. */
  readonly storesFramesLate?: boolean;
}

/** What defects replace: private in the carrier, as nothing else should touch it. */
export interface CarrierParts {
  bell: Pick<Bell, "mustRing">;
  sleeper: Pick<Sleeper, "park" | "wake" | "asleep" | "sleeps">;
  readonly reader: RingParts;
  awaiting: number;
  readonly sendQueueAwaits: number;
  readonly starvation: { start(): void };
  readonly frameReader: {
    take(index: number, available: number): number;
    snapshot(index: number, to: number, byteLength: number): void;
  };
}

/** A ring's way to the shared words. */
export interface RingParts {
  readonly ownWords: Int32Array;
  readonly peerWords: Int32Array;
  readonly words: WordAccess;
  readonly head: number;
}
