/**
 * What the RPC core sees of a carrier: memory to write frames into, blocks for larger payloads, and frames that arrive.
 */

import type { Parts } from "../wire/parts.js";

/** One frame that arrived, already checked against its own length; the object and its memory are reused for the next. */
export interface ReceivedFrame {
  kind: number;
  flags: number;
  code: number;
  streamId: number;
  argument: number;
  messageLength: number;
  pieceLength: number;
  /** Private memory that holds metadata and inline piece; valid until the receiver returns. */
  scratch: Uint8Array;
  metadataOffset: number;
  metadataLength: number;
  /** Where the piece lies: `scratch`, or the peer's arena. Copy from it, once. */
  pieceSource: Uint8Array;
  pieceOffset: number;
  /** The piece is not here yet: the carrier reads it into `destination`, and tells the receiver when it is there. */
  following: boolean;
  /** Set by the receiver of a frame whose piece follows: `pieceLength` bytes. Left undefined, the piece is dropped. */
  destination: Uint8Array | undefined;
}

export interface FrameReceiver {
  /** @throws Violation if the frame breaks the protocol: ends the connection */
  onFrame(frame: ReceivedFrame): void;
  /** The piece that followed a frame of this stream is in its `destination`. @throws Violation */
  onFilled(streamId: number): void;
  /** There may be room again for what waits to be sent. Returns true if anything was sent. */
  onRoom(): boolean;
  /** The connection is over. Called once, after the last frame. */
  onClosed(reason: CarrierClosed): void;
}

export interface CarrierClosed {
  readonly cause: "local" | "hangup" | "violation" | "failure";
  readonly detail: string;
}

export interface Carrier {
  readonly name: "shm" | "socket";
  /** Frames are written here, at `index`, … */
  readonly ringBytes: Uint8Array;
  /** … and the same memory in 32-bit words. */
  readonly ringWords: Int32Array;
  readonly index: number;
  /** Largest piece of a large message, in bytes. */
  readonly pieceBytesMax: number;
  /** The flag of frames whose piece `placePiece` has placed. */
  readonly pieceFlag: number;
  readonly closed: boolean;
  /**
   * Starts to deliver frames.
   * @param servesPeer whether frames may come unasked, as requests do; else only while `keepAlive` says that calls are open
   */
  start(receiver: FrameReceiver, servesPeer: boolean): void;
  /** Bytes that may be written at `index`. */
  freeBytes(): number;
  commit(byteLength: number): void;
  /**
   * Takes the next `byteLength` bytes of a large message as the piece of the frame that is about to be committed.
   * @param at where in the ring the frame's body starts; there is room for `BLOCK_REFERENCE_BYTES`
   * @returns bytes of body written in the ring; −1: nothing was taken, and the sender has to wait
   */
  placePiece(source: Parts, byteLength: number, at: number): number;
  /** Why no block will ever be had as things are, if so. */
  readonly exhausted: string | undefined;
  /** Shows committed frames to the peer now instead of with the next step of the poller. */
  publish(): void;
  /** What was committed would reach the peer although this process closed the connection now; `onRoom` tells when that comes true. */
  readonly idle: boolean;
  /** What `onRoom` waits for; zero: nothing. */
  await(space: boolean, blocks: boolean): void;
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
  /** Bytes of frames and pieces that wait for the socket to take them; 0 in shared memory. */
  readonly unsentBytes: number;
  readonly framesSent: number;
  readonly framesReceived: number;
  /** Times the peer was woken by a system call. */
  readonly doorbellsRung: number;
  /** Times this side was woken by the peer. */
  readonly doorbellsReceived: number;
  readonly sleeps: number;
}
