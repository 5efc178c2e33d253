/**
 * What the RPC core sees of a carrier: memory to write frames into, blocks for larger payloads, and frames that arrive.
 */

import type { LeaseHandle, LeaseLifetime } from "../memory/payload/lease.js";
import type { ReceiveMemory } from "../memory/receive/receive-memory.js";
import type { Receiving } from "../memory/receive/receiving.js";
import { Violation } from "../memory/shared/violation.js";
import type { SpanEntry } from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import type { Blocks } from "./shm/blocks.js";

/**
 * One frame that arrived, already checked against its own length; the object and its memory are reused for the next.
 */
export interface ReceivedFrame {
  kind: number;
  flags: number;
  code: number;
  streamId: number;
  argument: number;
  messageLength: number;
  fragmentLength: number;
  /** Private memory that holds metadata and inline fragment; valid until the receiver returns. */
  scratch: Uint8Array;
  metadataOffset: number;
  metadataLength: number;
  /** Bytes of the message that come in fragments: all but its spans. */
  inlineLength: number;
  /** The first `spanCount` tell which bytes of the message lie elsewhere. */
  readonly spans: readonly SpanEntry[];
  spanCount: number;
  /** Where the fragment lies: `scratch`, or the peer's arena. Copy from it, once. */
  fragmentSource: Uint8Array;
  fragmentOffset: number;
  /** The fragment is not here yet: the carrier reads it into `destination`, and tells the receiver when it is there. */
  following: boolean;
  /**
   * Set by the receiver of a frame whose fragment follows: `fragmentLength` bytes. Left undefined, the fragment is
   * dropped.
   */
  destination: Uint8Array | undefined;
  /** What `destination` lies in, if it is to be held until the fragment is there. */
  destinationMemory: ReceiveMemory | undefined;
}

/** Where the spans of received frames are taken from, and what messages are received into. */
export interface SpanSource {
  /** Undefined: memory of their own. */
  readonly receiving: Receiving | undefined;
  /**
   * The bytes of a span of the current frame, leased or copied. Called at most once for each; those that are not taken
   * when the receiver returns go back by themselves.
   * @param callLabel the call, for messages
   * @param handles a lease is added to them
   * @throws Violation
   */
  takeSpan(index: number, lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): Uint8Array;
}

export interface FrameReceiver {
  /** @throws Violation if the frame breaks the protocol: ends the connection */
  onFrame(frame: ReceivedFrame): void;
  /** The fragment that followed a frame of this stream is in its `destination`. @throws Violation */
  onFilled(streamId: number): void;
  /** There may be room again for what waits to be sent. Returns true if anything was sent. */
  onRoom(): boolean;
  /** The connection is over. Called once, after the last frame. */
  onClosed(reason: CarrierClosed): void;
}

export interface CarrierClosed {
  readonly cause: "local" | "hangup" | "violation" | "failure";
  /** One sentence, for the errors of calls. */
  readonly detail: string;
  /** The error behind it, with its stack. */
  readonly error?: unknown;
}

/** Why an error ends a connection. */
export function closedBy(error: unknown): CarrierClosed {
  const detail = error instanceof Error ? error.message : String(error);
  return { cause: error instanceof Violation ? "violation" : "failure", detail, error };
}

export interface Carrier {
  readonly name: "shm" | "socket";
  /** Why it is not shared memory, if it is not. */
  readonly reason: string | undefined;
  /** Frames are written here, at `index`, … */
  readonly ringBytes: Uint8Array;
  /** … and the same memory in 32-bit words. */
  readonly ringWords: Int32Array;
  readonly index: number;
  /** Largest fragment of a large message, in bytes. */
  readonly fragmentBytesMax: number;
  /** The flag of frames whose fragment `placeFragment` has placed. */
  readonly fragmentFlag: number;
  readonly closed: boolean;
  /**
   * Starts to deliver frames.
   * @param servesPeer whether frames may come unasked, as requests do; else only while `keepAlive` says that calls are
   * open
   */
  start(receiver: FrameReceiver, servesPeer: boolean): void;
  /** Bytes that may be written at `index`. */
  freeBytes(): number;
  commit(byteLength: number): void;
  /**
   * Takes the next `byteLength` bytes of a large message as the fragment of the frame that is about to be committed.
   * @param at where in the ring the frame's body starts; there is room for `BLOCK_REFERENCE_BYTES`
   * @returns bytes of body written in the ring; −1: nothing was taken, and the sender has to wait; −2: waiting may be
   *   in vain, so the fragment has to go into the ring itself
   */
  placeFragment(source: Parts, byteLength: number, at: number): number;
  /** Sends what was committed now instead of at the end of the tick, where borrowed bytes wait for that. */
  hurry(): void;
  /** Sends the source's borrowed bytes now, and copies what does not leave (BORROW-1). */
  keep(source: Parts): void;
  /**
   * The memory in which large values are moved without copying them twice; undefined: all of a message travels in
   * fragments.
   */
  readonly blocks: Blocks | undefined;
  /**
   * A loan, now or when there is room.
   * @param makeSignal called when it has to wait: a signal that gives up
   * @throws ConnectError `ResourceExhausted` if there is none before that, or can never be
   */
  loan(byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array>;
  readonly spanSource: SpanSource | undefined;
  /** Why no block will ever be had as things are, if so. */
  readonly exhausted: string | undefined;
  /** Shows committed frames to the peer now instead of with the next step of the poller. */
  publish(): void;
  /** A frame follows after some copying: a peer that sleeps may wake up meanwhile. */
  prewake(): void;
  /**
   * What was committed would reach the peer although this process closed the connection now; `onRoom` tells when that
   * comes true.
   */
  readonly idle: boolean;
  /** What `onRoom` waits for; zero: nothing. */
  setWaitFor(space: boolean, blocks: boolean): void;
  /** What waited may go on: `onRoom` follows. */
  requestPump(): void;
  /** Whether this connection keeps the process alive. */
  keepAlive(on: boolean): void;
  close(reason: CarrierClosed): void;
  stats(): CarrierStats;
}

export interface CarrierStats {
  readonly ringBytes: number;
  readonly arenaBytes: number;
  readonly arenaCommittedBytes: number;
  readonly arenaInUseBytes: number;
  /** Bytes of frames and fragments that wait for the socket to take them; 0 in shared memory. */
  readonly unsentBytes: number;
  /** Loans that are neither sent nor returned, and the bytes of their blocks. */
  readonly loans: number;
  readonly loanedBytes: number;
  /** Blocks of the peer's that are leased here, and their bytes. */
  readonly leases: number;
  readonly leasedBytes: number;
  /** Large values that were sent from where they were, those that were copied to be sent, … */
  readonly spansSentInPlace: number;
  readonly spansCopiedIn: number;
  /** … those that were leased on arrival, and those that were copied then. */
  readonly spansLeased: number;
  readonly spansCopiedOut: number;
  readonly framesSent: number;
  readonly framesReceived: number;
  /** Times the peer was woken by a system call. */
  readonly doorbellsRung: number;
  /** Times this side was woken by the peer. */
  readonly doorbellsReceived: number;
  readonly sleeps: number;
}
