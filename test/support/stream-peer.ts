/** A peer on a stream socket that says whatever a test wants: greets (or not), then writes frames and bytes by hand. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { connect } from "node:net";
import { FIELD, FRAME_HEADER_BYTES, KIND, packKindFlagsCode } from "../../src/wire/frame.js";
import type { HandshakeMessage, Hello } from "../../src/wire/hello.js";
import { decodeHandshake, encodeHandshake } from "../../src/wire/hello.js";
import type { RawFrame } from "./raw-peer.js";
import type { Owner } from "./temp.js";
import { waitUntil } from "./waiting.js";

export const STREAM_HELLO: Hello = {
  kind: "hello",
  minVersion: 1,
  maxVersion: 1,
  featuresSupported: 0,
  featuresRequired: 0,
  maxStreams: 65536,
};

export interface StreamFrame {
  kind: number;
  flags: number;
  code: number;
  streamId: number;
  argument: number;
  messageLength: number;
  fragmentLength: number;
}

/** The bytes of a frame, padded to 8; what is left out is what it would honestly be. */
export function frameBytes(frame: RawFrame): Buffer {
  const metadata = frame.metadata ?? new Uint8Array(0);
  const body = frame.body ?? new Uint8Array(0);
  const honest = FRAME_HEADER_BYTES + metadata.length + body.length;
  const bytes = Buffer.alloc((honest + 7) & -8);
  const words = new Int32Array(8);
  words[FIELD.byteLength] = frame.byteLength ?? honest;
  words[FIELD.kindFlagsCode] = packKindFlagsCode(frame.kind, frame.flags ?? 0, frame.code ?? 0);
  words[FIELD.streamId] = frame.streamId ?? 0;
  words[FIELD.argument] = frame.argument ?? 0;
  words[FIELD.metadataLength] = frame.metadataLength ?? metadata.length;
  words[FIELD.messageLength] = frame.messageLength ?? body.length;
  words[FIELD.fragmentLength] = frame.fragmentLength ?? body.length;
  words[FIELD.spanCount] = frame.spanCount ?? 0;
  bytes.set(new Uint8Array(words.buffer));
  bytes.set(metadata, FRAME_HEADER_BYTES);
  bytes.set(body, FRAME_HEADER_BYTES + metadata.length);
  return bytes;
}

/** Says that number `id` stands for a method of the test service. */
export function methodFrame(id: number, name: string, service = "TestService"): Buffer {
  return frameBytes({ kind: KIND.method, code: id, metadata: Buffer.from(`/isthmus.test.${service}/${name}`) });
}

export class StreamPeer {
  readonly socket: Socket;
  /** What came and was not taken. */
  bytes = Buffer.alloc(0);
  closed = false;

  constructor(owner: Owner, socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => (this.bytes = Buffer.concat([this.bytes, chunk])));
    socket.on("error", () => {});
    socket.on("close", () => (this.closed = true));
    owner.after(() => socket.destroy());
  }

  /** Connects to a path and says nothing yet. */
  static async connect(owner: Owner, path: string): Promise<StreamPeer> {
    const socket = connect(path);
    await once(socket, "connect");
    return new StreamPeer(owner, socket);
  }

  /** Connects and goes through the handshake honestly. */
  static async open(owner: Owner, path: string, hello: Partial<Hello> = {}): Promise<StreamPeer> {
    const peer = await StreamPeer.connect(owner, path);
    peer.socket.write(encodeHandshake({ ...STREAM_HELLO, ...hello }));
    assert.equal((await peer.handshake())?.kind, "accepted");
    return peer;
  }

  async handshake(): Promise<HandshakeMessage | undefined> {
    await waitUntil("a handshake message", () => this.bytes.length >= 8 || this.closed);
    if (this.bytes.length < 8) return undefined;
    const byteLength = this.bytes.readUInt32LE(4);
    await waitUntil("the rest of it", () => this.bytes.length >= byteLength || this.closed);
    return decodeHandshake(this.take(byteLength));
  }

  take(byteLength: number): Buffer {
    const taken = this.bytes.subarray(0, byteLength);
    this.bytes = this.bytes.subarray(byteLength);
    return taken;
  }

  /** The next frame and the fragment that came in it or behind it. */
  async frame(): Promise<{ frame: StreamFrame; fragment: Buffer }> {
    await waitUntil("a frame's header", () => this.bytes.length >= FRAME_HEADER_BYTES);
    const { bytes } = this;
    const byteLength = bytes.readUInt32LE(0);
    const frame: StreamFrame = {
      kind: bytes[4],
      flags: bytes[5],
      code: bytes.readUInt16LE(6),
      streamId: bytes.readUInt32LE(8),
      argument: bytes.readUInt32LE(12),
      messageLength: bytes.readUInt32LE(20),
      fragmentLength: bytes.readUInt32LE(24),
    };
    const metadataLength = bytes.readUInt32LE(16);
    const follows = (frame.flags & 8) !== 0;
    const padded = (byteLength + 7) & -8;
    await waitUntil("the whole frame", () => this.bytes.length >= padded + (follows ? frame.fragmentLength : 0));
    const whole = this.take(padded);
    const fragment = follows
      ? this.take(frame.fragmentLength)
      : whole.subarray(FRAME_HEADER_BYTES + metadataLength, byteLength);
    return { frame, fragment };
  }

  async hungUp(): Promise<void> {
    await waitUntil("the peer to hang up", () => this.closed);
  }
}
