/**
 * What send/ and rpc/ see of a carrier: memory to write frames into, memory for large payloads, and frames that arrive.
 */

import type { LeaseHandle, LeaseLifetime } from "../memory/payload/lease.js";
import type { ReceiveMemory } from "../memory/receive/receive-memory.js";
import type { Receiving } from "../memory/receive/receiving.js";
import { Violation } from "../memory/shm/violation.js";
import type { SpanEntry } from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import type { SpanMemory } from "./span-memory.js";
import type { Trust } from "./trust.js";

// Receiving.

/**
 * One frame that arrived. Its lengths are already checked against each other. The object and its memory are reused for
 * the next frame.
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
  /** The first `spanCount` entries tell which bytes of the message lie elsewhere. */
  readonly spans: readonly SpanEntry[];
  spanCount: number;
  /** Memory that holds the fragment: `scratch`, or the peer's arena. Copy from it once; the peer can change an arena. */
  fragmentSource: Uint8Array;
  fragmentOffset: number;
  /** The fragment has not arrived yet. The carrier reads it into `destination`, then calls `onFilled`. */
  following: boolean;
  /**
   * Memory of `fragmentLength` bytes for a fragment that follows, set by the receiver. If it stays undefined, the
   * fragment is discarded.
   */
  destination: Uint8Array | undefined;
  /** The memory that contains `destination`, if the carrier has to hold it until the fragment has arrived. */
  destinationMemory: ReceiveMemory | undefined;
}

/** Where a receiver takes the spans of frames from, and the memory that it receives messages into. */
export interface SpanSource {
  /** Undefined: each message is received into memory of its own. */
  readonly receiving: Receiving | undefined;
  /**
   * Returns the bytes of a span of the current frame, leased or copied. Called at most once for each span. Spans that
   * are not taken when the receiver returns are released.
   * @param callLabel names the call in error texts
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
  /** There may be room again for frames and messages that wait. Returns true if anything was sent. */
  onRoom(): boolean;
  /** The connection is over. Called once, after the last frame. */
  onClosed(reason: CarrierClosed): void;
}

// Sending.

/** `placeFragment` took nothing: the sender has to wait for room. */
export const FRAGMENT_WAITS = -1;
/** `placeFragment` took nothing, and waiting may be in vain: the fragment has to go into the ring itself. */
export const FRAGMENT_INTO_RING = -2;

/** The memory that frames are written into. */
export interface FrameSpace {
  /** The next frame is written here, at `index`. */
  readonly ringBytes: Uint8Array;
  /** The same memory as `ringBytes`, in 32-bit words. */
  readonly ringWords: Int32Array;
  readonly index: number;
  /** Bytes that may be written at `index`. */
  freeBytes(): number;
  /** The `byteLength` bytes at `index` are a frame to be sent, at the latest at the end of the tick. */
  commit(byteLength: number): void;
  /** Shows committed frames to the peer now instead of with the next step of the poller. */
  publish(): void;
  /** Wakes a peer that sleeps, because a frame follows after some copying. */
  prewake(): void;
}

/** How the fragments of a large message are sent. */
export interface FragmentSpace {
  /** Size of the largest fragment, in bytes. */
  readonly fragmentBytesMax: number;
  /** Size of the largest fragment, in bytes, that completes a message and has borrowed bytes. */
  readonly borrowedEndBytesMax: number;
  /** The flag of a frame whose fragment `placeFragment` has taken. */
  readonly fragmentFlag: number;
  /**
   * Takes the next `byteLength` bytes of a large message as the fragment of the frame that is committed next.
   * @param at where in the ring the frame's body starts; there is room for `BLOCK_REFERENCE_BYTES`
   * @returns bytes of the body that were written into the ring, or `FRAGMENT_WAITS` or `FRAGMENT_INTO_RING`
   */
  placeFragment(source: Parts, byteLength: number, at: number): number;
  /** Sends now, instead of at the end of the tick, if committed fragments lie in borrowed memory. */
  hurry(): void;
  /** Sends the source's borrowed bytes now, and copies those that cannot leave (BORROW-1). */
  keep(source: Parts): void;
}

/** The sending side of a carrier, as send/ uses it. */
export interface SendingCarrier extends FrameSpace, FragmentSpace {
  readonly closed: boolean;
  /** Memory that moves large values without copying them twice; undefined: whole messages travel in fragments. */
  readonly blocks: SpanMemory | undefined;
  /** Reusable memory for copies of large values; undefined: the heap. */
  readonly receiving: Receiving | undefined;
  /**
   * Committed frames would reach the peer even if this process closed the connection now. If it is false, `onRoom`
   * follows when it becomes true.
   */
  readonly idle: boolean;
  /** Tells what `onRoom` is to wait for: space for frames, or memory for fragments and large values. */
  setWaitFor(space: boolean, blocks: boolean): void;
  /** Sends that waited for something else may go on: `onRoom` follows. */
  requestPump(): void;
  close(reason: CarrierClosed): void;
}

export interface Carrier extends SendingCarrier {
  readonly name: "shm" | "socket";
  /** Why this carrier is not shared memory; undefined if it is. */
  readonly reason: string | undefined;
  /** How far the peer is trusted with shared memory; undefined if there is none. */
  readonly trust: Trust | undefined;
  readonly spanSource: SpanSource;
  /**
   * Starts to deliver frames.
   * @param servesPeer whether frames may come unasked, as requests do. Otherwise they come only while `keepAlive` says
   *   that calls are open
   */
  start(receiver: FrameReceiver, servesPeer: boolean): void;
  /** Whether this connection keeps the process alive. */
  keepAlive(on: boolean): void;
  /**
   * Lends memory for a value that is to be sent, now or when there is room.
   * @param makeSignal called if the loan has to wait; the signal ends the wait
   * @throws ConnectError `ResourceExhausted` if there is no room before the signal aborts, or can never be
   */
  loan(byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array>;
  stats(): CarrierStats;
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
  /** The peer's blocks that are leased here, and their bytes. */
  readonly leases: number;
  readonly leasedBytes: number;
  /** Large values that were sent from where they lay. */
  readonly spansSentInPlace: number;
  /** Large values that were copied to be sent. */
  readonly spansCopiedIn: number;
  /** Large values that were leased on arrival. */
  readonly spansLeased: number;
  /** Large values that were copied on arrival. */
  readonly spansCopiedOut: number;
  readonly framesSent: number;
  readonly framesReceived: number;
  /** Times the peer was woken by a system call. */
  readonly doorbellsRung: number;
  /** Times this side was woken by the peer. */
  readonly doorbellsReceived: number;
  readonly sleeps: number;
}
