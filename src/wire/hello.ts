/**
 * The messages of the handshake, exchanged over the socket before anything else. Afterwards the socket carries doorbell
 * bytes (zeros) if both sides agreed on shared memory, and frames otherwise.
 *
 *   client → server  HELLO     (with the client's two descriptors if it offers shared memory)
 *   server → client  ACCEPTED  (with the server's two descriptors if both have it)   or   REFUSED
 *
 * If the server's socket refuses descriptors until their sender is admitted, HELLO comes without them:
 *
 *   client → server  HELLO
 *   server → client  READY     (if both have shared memory)   or   ACCEPTED   or   REFUSED
 *   client → server  MEMORY    (with the client's two descriptors)
 *   server → client  ACCEPTED  (with the server's two descriptors)   or   REFUSED
 *
 *    0 magic "ISTM" u32 · 4 byteLength u32, all of it · 8 kind u16 · 10 reserved u16
 *   HELLO:    12 minVersion u16 · 14 maxVersion u16 · 16 features supported u32 · 20 features required u32
 *             24 maxStreams u32 · 28 streamWindowBytes u32 · 32 lack length u16 · 34 reserved u16 · 36 lack, UTF-8
 *   ACCEPTED: 12 version u16 · 14 reserved u16 · 16 features in use u32 · 20 reserved u32
 *             24 maxStreams u32 · 28 streamWindowBytes u32 · 32 lack length u16 · 34 reserved u16 · 36 lack, UTF-8
 *   REFUSED:  12 status code u16 (gRPC's numbers) · 14 retryability u16 · 16 message, UTF-8
 *   READY and MEMORY: 12 reserved u32
 *
 * A receiver ignores bytes of HELLO and ACCEPTED past those it knows, so later versions can append fields. Fields that
 * a shorter message leaves out count as 0.
 */
import { SLOTS_MAX, STREAM_WINDOW_BYTES_MAX } from "./frame.js";

export const PROTOCOL_VERSION_MIN = 1;
export const PROTOCOL_VERSION_MAX = 1;
/** Feature bits. */
export const FEATURE = {
  /**
   * Frames lie in shared memory, whose descriptors come with HELLO and ACCEPTED. Without it they follow on the socket.
   */
  sharedMemory: 1,
  /** Frames may have splice tables. Only with shared memory. */
  spans: 2,
  /**
   * Streaming calls with credit. Each side states in `streamWindowBytes` how much a stream may send to it before it
   * grants more.
   */
  streams: 4,
} as const;

export const PREFIX_BYTES = 8;
const MAGIC = 0x4d545349; // "ISTM"
const HELLO_BYTES = 32;
/** The length of HELLO without the fields that were appended later. */
const HELLO_BYTES_MIN = 28;
/** The offset of the lack's text, if there is one. */
const LACK_TEXT_OFFSET = 36;
const LACK_BYTES_MAX = 1024;
const REFUSED_TEXT_OFFSET = 16;
const BYTES_MAX = 4096;
const KIND = { hello: 1, accepted: 2, refused: 3, ready: 4, memory: 5 } as const;
/** The length of READY and of MEMORY. */
const BARE_BYTES = 16;

export interface Hello {
  readonly kind: "hello";
  readonly minVersion: number;
  readonly maxVersion: number;
  readonly featuresSupported: number;
  readonly featuresRequired: number;
  /** The most streams that the sender accepts at a time. */
  readonly maxStreams: number;
  /**
   * The bytes that each stream may send to the sender of this message before it grants more. 0 if left out, which is
   * allowed only without the feature `streams`.
   */
  readonly streamWindowBytes?: number;
  /** Why the sender has no shared memory; undefined if it has, or does not say. */
  readonly lack?: string | undefined;
}

export interface Accepted {
  readonly kind: "accepted";
  readonly version: number;
  readonly features: number;
  readonly maxStreams: number;
  /** As in {@link Hello}. */
  readonly streamWindowBytes?: number;
  readonly lack?: string | undefined;
}

/**
 * What a refused client can expect from another attempt: to be refused again ("permanent"), or to be accepted by the
 * server that replaces this one ("draining").
 */
export type RefusedRetryability = "permanent" | "draining";
const RETRYABILITIES: readonly (RefusedRetryability | undefined)[] = [undefined, "permanent", "draining"];

export interface Refused {
  readonly kind: "refused";
  /** A gRPC status code. */
  readonly code: number;
  /** Undefined if the server does not say. */
  readonly retryability?: RefusedRetryability | undefined;
  readonly message: string;
}

/** The server's socket takes descriptors now. */
export interface Ready {
  readonly kind: "ready";
}

/** The client's descriptors come with this message. */
export interface Memory {
  readonly kind: "memory";
}

export type HandshakeMessage = Hello | Accepted | Refused | Ready | Memory;

export function encodeHandshake(message: HandshakeMessage): Uint8Array {
  if (message.kind === "ready" || message.kind === "memory") return encodeBare(message.kind);
  const isRefusal = message.kind === "refused";
  const text = isRefusal
    ? textBytes(message.message, BYTES_MAX - REFUSED_TEXT_OFFSET)
    : textBytes(message.lack ?? "", LACK_BYTES_MAX);
  const textOffset = isRefusal ? REFUSED_TEXT_OFFSET : text.length > 0 ? LACK_TEXT_OFFSET : HELLO_BYTES;
  const bytes = new Uint8Array(textOffset + text.length);
  bytes.set(text, textOffset);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, bytes.length, true);
  view.setUint16(8, KIND[message.kind], true);
  switch (message.kind) {
    case "hello":
      view.setUint16(12, message.minVersion, true);
      view.setUint16(14, message.maxVersion, true);
      view.setUint32(16, message.featuresSupported, true);
      view.setUint32(20, message.featuresRequired, true);
      view.setUint32(24, message.maxStreams, true);
      view.setUint32(28, message.streamWindowBytes ?? 0, true);
      if (text.length > 0) view.setUint16(HELLO_BYTES, text.length, true);
      break;
    case "accepted":
      view.setUint16(12, message.version, true);
      view.setUint32(16, message.features, true);
      view.setUint32(24, message.maxStreams, true);
      view.setUint32(28, message.streamWindowBytes ?? 0, true);
      if (text.length > 0) view.setUint16(HELLO_BYTES, text.length, true);
      break;
    case "refused":
      view.setUint16(12, message.code, true);
      view.setUint16(14, RETRYABILITIES.indexOf(message.retryability), true);
      break;
  }
  return bytes;
}

function encodeBare(kind: "ready" | "memory"): Uint8Array {
  const bytes = new Uint8Array(BARE_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, BARE_BYTES, true);
  view.setUint16(8, KIND[kind], true);
  return bytes;
}

/** Encodes as much of a text as fits into `bytesMax` bytes, without splitting a character. */
function textBytes(text: string, bytesMax: number): Uint8Array {
  const bytes = new Uint8Array(bytesMax);
  return bytes.subarray(0, new TextEncoder().encodeInto(text, bytes).written);
}

/** The length of the message that starts with these 8 bytes; undefined if they are not from an Isthmus peer. */
export function handshakeLength(prefix: Uint8Array): number | undefined {
  const view = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES);
  const byteLength = view.getUint32(4, true);
  if (view.getUint32(0, true) !== MAGIC || byteLength < REFUSED_TEXT_OFFSET || byteLength > BYTES_MAX) return undefined;
  return byteLength;
}

/** Decodes a whole message. Returns undefined if it is not valid. */
export function decodeHandshake(bytes: Uint8Array): HandshakeMessage | undefined {
  if (bytes.length < REFUSED_TEXT_OFFSET || handshakeLength(bytes) !== bytes.length) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const kind = view.getUint16(8, true);
  if (kind === KIND.refused) {
    const retryability = RETRYABILITIES[view.getUint16(14, true)];
    return {
      kind: "refused",
      code: view.getUint16(12, true),
      ...(retryability !== undefined && { retryability }),
      message: textOf(bytes, REFUSED_TEXT_OFFSET, bytes.length),
    };
  }
  if (kind === KIND.ready) return { kind: "ready" };
  if (kind === KIND.memory) return { kind: "memory" };
  if (bytes.length < HELLO_BYTES_MIN) return undefined;
  const maxStreams = Math.min(view.getUint32(24, true), SLOTS_MAX);
  if (maxStreams === 0) return undefined;
  const streamWindowBytes =
    bytes.length < HELLO_BYTES ? 0 : Math.min(view.getUint32(28, true), STREAM_WINDOW_BYTES_MAX);
  if (streamWindowBytes === 0 && (view.getUint32(16, true) & FEATURE.streams) !== 0) return undefined;
  const lackBytes = bytes.length < LACK_TEXT_OFFSET ? 0 : Math.min(view.getUint16(HELLO_BYTES, true), LACK_BYTES_MAX);
  if (LACK_TEXT_OFFSET + lackBytes > Math.max(bytes.length, LACK_TEXT_OFFSET)) return undefined;
  const lack = lackBytes === 0 ? {} : { lack: textOf(bytes, LACK_TEXT_OFFSET, LACK_TEXT_OFFSET + lackBytes) };
  if (kind === KIND.accepted) {
    return {
      kind: "accepted",
      version: view.getUint16(12, true),
      features: view.getUint32(16, true),
      maxStreams,
      streamWindowBytes,
      ...lack,
    };
  }
  if (kind !== KIND.hello) return undefined;
  return {
    kind: "hello",
    minVersion: view.getUint16(12, true),
    maxVersion: view.getUint16(14, true),
    featuresSupported: view.getUint32(16, true),
    featuresRequired: view.getUint32(20, true),
    maxStreams,
    streamWindowBytes,
    ...lack,
  };
}

function textOf(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.subarray(start, end)).toString("utf8");
}

/**
 * The server's choice: the newest version that both sides know and the features that both have, or why it refuses.
 * @param supported the features of this server
 * @param required the features that a client must have
 * @param lack why the server has no shared memory; undefined if it has
 */
export function negotiate(
  hello: Hello,
  supported: number,
  required: number,
  lack: string | undefined,
): { version: number; features: number } | { refusal: string } {
  const version = Math.min(hello.maxVersion, PROTOCOL_VERSION_MAX);
  if (version < Math.max(hello.minVersion, PROTOCOL_VERSION_MIN)) {
    return {
      refusal:
        `no common protocol version: the client speaks ${hello.minVersion} to ${hello.maxVersion}, ` +
        `this server ${PROTOCOL_VERSION_MIN} to ${PROTOCOL_VERSION_MAX}; update the older of the two`,
    };
  }
  const missing = hello.featuresRequired & ~supported;
  if ((missing & FEATURE.sharedMemory) !== 0)
    return {
      refusal: `the client insists on shared memory (carrier: "shm"), and ${withoutMemory("the server", lack)}`,
    };
  if (missing !== 0)
    return { refusal: `the client requires features 0x${(missing >>> 0).toString(16)} that this server does not have` };
  const lacking = required & ~hello.featuresSupported;
  if ((lacking & FEATURE.sharedMemory) !== 0)
    return {
      refusal: `the server insists on shared memory (carrier: "shm"), and ${withoutMemory("the client", hello.lack)}`,
    };
  if (lacking !== 0)
    return {
      refusal: `this server requires features 0x${(lacking >>> 0).toString(16)} that the client does not offer`,
    };
  return { version, features: hello.featuresSupported & supported };
}

/**
 * Why a connection has no shared memory, in the same words at both ends.
 * @param client why the client has none; undefined if it has. At least one of the two is given
 * @param server why the server has none; undefined if it has
 */
export function reasonWithoutMemory(client: string | undefined, server: string | undefined): string {
  if (client === server) return `neither end uses shared memory: ${client}`;
  const lacking = [
    client === undefined ? undefined : withoutMemory("the client", client),
    server === undefined ? undefined : withoutMemory("the server", server),
  ];
  return lacking.filter((one) => one !== undefined).join("; ");
}

function withoutMemory(end: string, lack: string | undefined): string {
  return `${end} uses no shared memory: ${lack ?? LACK_UNSAID}`;
}

/** The reason of a peer that offers no shared memory and does not say why. */
export const LACK_UNSAID = "it is of a version that does not say why";
