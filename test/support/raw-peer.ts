/**
 * A peer that says whatever a test wants: makes its own segments, goes through the handshake (or part of it), then
 * writes frames, cursors and doorbell bytes by hand.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { AWAIT, Bell } from "../../src/memory/shm/doorbell.js";
import { RING_DATA_OFFSET, WORD } from "../../src/memory/shm/layout.js";
import type { Addon } from "../../src/os/addon.js";
import { isSystemError, SEALS } from "../../src/os/addon.js";
import { requireAddon } from "../../src/os/addon.js";
import type { SpanEntry } from "../../src/wire/frame.js";
import {
  FIELD,
  FRAME_HEADER_BYTES,
  KIND,
  packKindFlagsCode,
  SPAN_ENTRY_BYTES,
  tableOffset,
} from "../../src/wire/frame.js";
import type { HandshakeMessage, Hello } from "../../src/wire/hello.js";
import { decodeHandshake, encodeHandshake, FEATURE } from "../../src/wire/hello.js";
import type { Owner } from "./temp.js";
import { waitUntil } from "./waiting.js";

// A liar has its own idea of the layout, so that a change of ours shows.
const MAGIC = 0x48545349;
const LAYOUT_VERSION = 1;
const RING_BYTES = 1 << 16;
const ARENA_BYTES = 1 << 20;
const ARENA_SEALS = SEALS.SHRINK | SEALS.GROW | SEALS.SEAL;
const RING_SEALS = ARENA_SEALS | SEALS.FUTURE_WRITE;

export const HELLO: Hello = {
  kind: "hello",
  minVersion: 1,
  maxVersion: 1,
  featuresSupported: FEATURE.sharedMemory,
  featuresRequired: 0,
  maxStreams: 65536,
};

/** What is to be wrong with the segments. */
export interface SegmentLies {
  ringSeals?: number;
  arenaSeals?: number;
  /** Real sizes in bytes. */
  ringSegmentBytes?: number;
  arenaSegmentBytes?: number;
  ringHeader?: (words: Uint32Array) => void;
  arenaHeader?: (words: Uint32Array) => void;
}

/** Fields of a frame; what is left out is what it would honestly be. */
export interface RawFrame {
  kind: number;
  flags?: number;
  code?: number;
  streamId?: number;
  argument?: number;
  metadata?: Uint8Array;
  body?: Uint8Array;
  byteLength?: number;
  metadataLength?: number;
  messageLength?: number;
  fragmentLength?: number;
  spanCount?: number;
  spans?: readonly RawSpan[];
}

/** What is left out is 0. */
export type RawSpan = Partial<SpanEntry>;
const SPAN_FIELDS = ["position", "byteLength", "unit", "generation", "offset", "flags"] as const;

export interface ReceivedFrame {
  kind: number;
  code: number;
  streamId: number;
  messageLength: number;
  spans: SpanEntry[];
}

export interface Received {
  bytes: Uint8Array;
  descriptors: number[];
}

export class RawPeer {
  readonly descriptor: number;
  readonly addon: Addon;
  private closed = false;
  /** What arrived with the handshake and is not closed yet. */
  private descriptors: number[] = [];
  private mappings: ArrayBuffer[] = [];
  /** What the server did not take with the first message. */
  private readonly refused: number[] = [];
  ring!: ArrayBuffer;
  arena!: ArrayBuffer;
  /** The first pages of the own ring segment, with the shared words. */
  words!: Int32Array;
  peerWords!: Int32Array;
  peerRingBytes = 0;
  private peerRing!: Uint8Array;
  private bell!: Bell;
  /** Position up to which frames were written. */
  tail = 0;
  private peerHead = 0;

  constructor(owner: Owner, descriptor: number) {
    this.addon = requireAddon();
    this.descriptor = descriptor;
    owner.after(() => this.close());
  }

  /** Connects and says nothing yet. */
  static connect(owner: Owner, path: string): RawPeer {
    return new RawPeer(owner, requireAddon().connectSocket(path));
  }

  /** Connects and goes through the handshake honestly. */
  static async open(owner: Owner, path: string, features = 0): Promise<RawPeer> {
    const peer = RawPeer.connect(owner, path);
    peer.send(
      encodeHandshake({ ...HELLO, featuresSupported: HELLO.featuresSupported | features }),
      peer.makeSegments(),
    );
    await peer.join("accepted");
    return peer;
  }

  /** Makes the two segments; their descriptors, ring first, are closed by `close`. */
  makeSegments(lies: SegmentLies = {}): number[] {
    const { addon } = this;
    const ringSize = lies.ringSegmentBytes ?? RING_DATA_OFFSET + RING_BYTES;
    const ring = addon.createSegment("lying-ring", ringSize);
    this.descriptors.push(ring);
    this.ring = addon.mapSegment(ring, ringSize, ringSize >= RING_DATA_OFFSET + RING_BYTES ? RING_BYTES : 0, true);
    this.words = new Int32Array(this.ring, 0, RING_DATA_OFFSET / 4);
    const ringHeader = new Uint32Array(this.ring, 0, 8);
    ringHeader.set([MAGIC, LAYOUT_VERSION, 1, RING_DATA_OFFSET + RING_BYTES, RING_BYTES, 4096]);
    lies.ringHeader?.(ringHeader);
    addon.sealSegment(ring, lies.ringSeals ?? RING_SEALS);
    const arenaSize = lies.arenaSegmentBytes ?? ARENA_BYTES;
    const arena = addon.createSegment("lying-arena", arenaSize);
    this.descriptors.push(arena);
    this.arena = addon.mapSegment(arena, arenaSize, 0, true);
    const arenaHeader = new Uint32Array(this.arena, 0, 8);
    arenaHeader.set([MAGIC, LAYOUT_VERSION, 2, ARENA_BYTES]);
    lies.arenaHeader?.(arenaHeader);
    addon.sealSegment(arena, lies.arenaSeals ?? ARENA_SEALS);
    this.mappings.push(this.ring, this.arena);
    return [ring, arena];
  }

  /**
   * Descriptors that the server does not take yet go with the message that it asks for (`receiveHandshake`). False if the
   * other side has gone.
   */
  send(bytes: Uint8Array, descriptors: readonly number[] = []): boolean {
    try {
      this.addon.sendMessage(this.descriptor, bytes, descriptors);
      return true;
    } catch (error) {
      if (isSystemError(error) && error.code === "EPERM" && descriptors.length > 0) {
        this.refused.push(...descriptors);
        return this.send(bytes);
      }
      if (isSystemError(error) && (error.code === "EPIPE" || error.code === "ECONNRESET")) return false;
      throw error;
    }
  }

  /** Receives exactly `byteLength` bytes, fewer if the other side closes before. */
  async receive(byteLength: number): Promise<Received> {
    const bytes = new Uint8Array(byteLength);
    const descriptors: number[] = [];
    let filled = 0;
    await waitUntil(`${byteLength} bytes from the peer`, () => {
      for (;;) {
        let got;
        try {
          got = this.addon.receiveMessage(this.descriptor, bytes.subarray(filled));
        } catch (error) {
          if (isSystemError(error) && error.code === "ECONNRESET") return true;
          throw error;
        }
        descriptors.push(...got.descriptors);
        if (got.byteLength < 0) return false;
        filled += got.byteLength;
        if (got.byteLength === 0 || filled === byteLength) return true;
      }
    });
    this.descriptors.push(...descriptors);
    return { bytes: bytes.subarray(0, filled), descriptors };
  }

  async receiveHandshake(): Promise<{ message: HandshakeMessage | undefined; descriptors: number[] }> {
    const prefix = await this.receive(8);
    if (prefix.bytes.length < 8) return { message: undefined, descriptors: [] };
    const rest = await this.receive(new DataView(prefix.bytes.buffer).getUint32(4, true) - 8);
    const message = decodeHandshake(Buffer.concat([prefix.bytes, rest.bytes]));
    if (message?.kind === "ready") {
      this.send(encodeHandshake({ kind: "memory" }), this.refused.splice(0));
      return this.receiveHandshake();
    }
    return {
      message,
      descriptors: [...prefix.descriptors, ...rest.descriptors],
    };
  }

  /** Receives the other side's greeting of this kind and maps its ring. */
  async join(kind: "hello" | "accepted"): Promise<void> {
    const { message, descriptors } = await this.receiveHandshake();
    assert.equal(message?.kind, kind, JSON.stringify(message));
    assert.equal(descriptors.length, 2);
    const { byteLength } = this.addon.inspectSegment(descriptors[0]);
    this.peerRingBytes = byteLength - RING_DATA_OFFSET;
    const ring = this.addon.mapSegment(descriptors[0], byteLength, this.peerRingBytes, false);
    this.mappings.push(ring);
    this.peerWords = new Int32Array(ring, 0, RING_DATA_OFFSET / 4);
    this.peerRing = new Uint8Array(ring, RING_DATA_OFFSET);
    this.bell = new Bell(this.peerWords);
  }

  /** Writes a frame at the tail; `publish` shows it. */
  frame(frame: RawFrame): void {
    const metadata = frame.metadata ?? new Uint8Array(0);
    const body = frame.body ?? new Uint8Array(0);
    const { spans = [] } = frame;
    const table =
      spans.length === 0 ? FRAME_HEADER_BYTES + metadata.length : tableOffset(FRAME_HEADER_BYTES + metadata.length);
    const bodyAt = table + spans.length * SPAN_ENTRY_BYTES;
    const honest = bodyAt + body.length;
    const spanBytes = spans.reduce((sum, { byteLength = 0 }) => sum + byteLength, 0);
    const index = RING_DATA_OFFSET + (this.tail & (RING_BYTES - 1));
    const words = new Int32Array(this.ring, index, FRAME_HEADER_BYTES / 4);
    words[FIELD.byteLength] = frame.byteLength ?? honest;
    words[FIELD.kindFlagsCode] = packKindFlagsCode(frame.kind, frame.flags ?? 0, frame.code ?? 0);
    words[FIELD.streamId] = frame.streamId ?? 0;
    words[FIELD.argument] = frame.argument ?? 0;
    words[FIELD.metadataLength] = frame.metadataLength ?? metadata.length;
    words[FIELD.messageLength] = frame.messageLength ?? body.length + spanBytes;
    words[FIELD.fragmentLength] = frame.fragmentLength ?? body.length;
    words[FIELD.spanCount] = frame.spanCount ?? spans.length;
    const bytes = new Uint8Array(this.ring, index, honest);
    bytes.set(metadata, FRAME_HEADER_BYTES);
    const entries = new Int32Array(this.ring, index + tableOffset(table), spans.length * SPAN_FIELDS.length);
    for (const [i, span] of spans.entries())
      entries.set(
        SPAN_FIELDS.map((field) => span[field] ?? 0),
        i * SPAN_FIELDS.length,
      );
    bytes.set(body, bodyAt);
    this.tail = (this.tail + ((honest + 7) & -8)) | 0;
  }

  /** Says that number `id` stands for a method of the test service. */
  define(id: number, name: string): void {
    this.frame({ kind: KIND.method, code: id, metadata: Buffer.from(`/isthmus.test.TestService/${name}`) });
  }

  /** Stores the tail and rings if the other side sleeps. */
  publish(tail = this.tail): void {
    Atomics.store(this.words, WORD.tail, tail);
    if (this.bell.mustRing(AWAIT.frames)) this.addon.ringDoorbell(this.descriptor);
  }

  /** Whether the other side has consumed all that was published. */
  get consumed(): boolean {
    return Atomics.load(this.peerWords, WORD.head) === this.tail;
  }

  /** Reads the frames that have come since the last call, and lets the other side reuse the ring. */
  read(): ReceivedFrame[] {
    const frames = [];
    const tail = Atomics.load(this.peerWords, WORD.tail);
    while (this.peerHead !== tail) {
      const index = this.peerHead & (this.peerRingBytes - 1);
      const words = new Int32Array(this.peerRing.buffer, RING_DATA_OFFSET + index, FRAME_HEADER_BYTES / 4);
      const table = new Int32Array(
        this.peerRing.buffer,
        RING_DATA_OFFSET + index + tableOffset(FRAME_HEADER_BYTES + words[FIELD.metadataLength]),
        words[FIELD.spanCount] * SPAN_FIELDS.length,
      );
      const spans = Array.from({ length: words[FIELD.spanCount] }, (_, i) => {
        const [position, byteLength, unit, generation, offset, flags] = table.subarray(
          i * SPAN_FIELDS.length,
          (i + 1) * SPAN_FIELDS.length,
        );
        return { position, byteLength, unit, generation, offset, flags };
      });
      frames.push({
        spans,
        kind: words[FIELD.kindFlagsCode] & 0xff,
        code: words[FIELD.kindFlagsCode] >>> 16,
        streamId: words[FIELD.streamId] >>> 0,
        messageLength: words[FIELD.messageLength],
      });
      this.peerHead = (this.peerHead + ((words[FIELD.byteLength] + 7) & -8)) | 0;
    }
    Atomics.store(this.words, WORD.head, this.peerHead);
    return frames;
  }

  /** Waits until the other side hangs up. */
  async hungUp(): Promise<void> {
    const into = new Uint8Array(4096);
    await waitUntil("the peer to hang up", () => {
      for (;;) {
        try {
          const { byteLength } = this.addon.receiveMessage(this.descriptor, into);
          if (byteLength === 0) return true;
          if (byteLength < 0) return false;
        } catch (error) {
          if (isSystemError(error) && error.code === "ECONNRESET") return true;
          throw error;
        }
      }
    });
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.addon.shutdownSocket(this.descriptor);
    this.addon.closeDescriptor(this.descriptor);
    for (const descriptor of this.descriptors.splice(0)) this.addon.closeDescriptor(descriptor);
    for (const mapping of this.mappings.splice(0)) this.addon.detachMapping(mapping);
  }
}

/** Listens on `path`; `next` gives the next client. */
export function rawListener(owner: Owner, path: string): { next(): Promise<RawPeer> } {
  const addon = requireAddon();
  const listener = addon.bindSocket(path, 0o600, -1);
  addon.listenSocket(listener, 16);
  owner.after(() => addon.closeDescriptor(listener));
  return {
    async next() {
      let descriptor = -1;
      await waitUntil("a client to connect", () => (descriptor = addon.acceptSocket(listener)) >= 0);
      await sleep(0);
      return new RawPeer(owner, descriptor);
    },
  };
}
