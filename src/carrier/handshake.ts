/**
 * From a connected socket to a running carrier, at both ends: exchanges HELLO and WELCOME, with the segments' descriptors
 * where both ends have shared memory, checks what the peer sent, and hands the socket over: to be the doorbell line, or to
 * carry the frames itself.
 *
 * HANDSHAKE-1  Whatever happens (refusal, time-out, garbage, death of the peer), every descriptor and mapping made on
 *              the way is closed.
 * HANDSHAKE-2  A side maps the peer's memory only after version and features are agreed.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ArenaGeometry, RingGeometry } from "../memory/layout.js";
import type { ConnectionMemory, OwnMemory } from "../memory/segment.js";
import { createOwnMemory, joinMemory } from "../memory/segment.js";
import { Violation } from "../memory/violation.js";
import type { PeerCredentials } from "../os/addon.js";
import { isSystemError } from "../os/addon.js";
import type { HandshakeMessage, Hello, Welcome } from "../wire/hello.js";
import { FEATURE, negotiate, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN } from "../wire/hello.js";
import type { Carrier } from "./carrier.js";
import { ControlSocket } from "./control-socket.js";
import type { DoorbellSocket } from "./doorbell-socket.js";
import { ShmCarrier } from "./shm.js";
import { SocketCarrier } from "./socket.js";
import { withOutlook } from "./outlook.js";
import type { StreamSocket } from "./stream-socket.js";

export interface LinkOptions {
  /** "shm": shared memory or nothing; "socket": never shared memory. */
  readonly carrier: "auto" | "shm" | "socket";
  readonly geometry: RingGeometry & ArenaGeometry;
  readonly handshakeTimeoutMs: number;
  readonly pollMicros: number;
  /** Streams that this side accepts at once. */
  readonly maxStreams: number;
  /** Bytes that each stream may send to this side before it is granted more. */
  readonly streamWindowBytes: number;
  readonly isolation: Isolation | undefined;
}

/**
 * How far the peer is trusted with memory that both have mapped.
 *
 * - "shared": large values are used where the peer wrote them. It could change them while they are read, so a check on a value could be
 *   outrun; nothing but these values is exposed to that.
 * - "snapshot": each large value is copied once to private memory before anything looks at it.
 */
export type Isolation = "shared" | "snapshot";

/** The uid that stands for users who have no number in this user namespace. */
export const OVERFLOW_UID = 65534;

/** Whether the peer's process belongs to this process's user, as the kernel has it. */
export function isSameUser(peer: PeerCredentials): boolean {
  return peer.uid === process.getuid?.() && peer.uid !== OVERFLOW_UID;
}

/** What a handshake leads to. */
export interface Link {
  readonly carrier: Carrier;
  /** The peer's process, if the kernel told. */
  readonly peer: PeerCredentials | undefined;
  /** Streams that may be open at once: the smaller of what both ends accept. */
  readonly maxStreams: number;
  /** The credit that each stream starts with, in bytes; undefined: the peer knows unary calls only. */
  readonly windows: StreamWindows | undefined;
}

/** How many bytes each stream may send before it is granted more. */
export interface StreamWindows {
  readonly own: number;
  readonly peer: number;
}

/** A connected socket during the handshake. Only one that the addon holds brings descriptors. */
export type HandshakeSocket = ControlSocket | StreamSocket;

/** The client's half. Takes `socket` over, also when it throws. @throws ConnectError */
export async function greet(socket: HandshakeSocket, options: LinkOptions, signal: AbortSignal): Promise<Link> {
  const received: number[] = [];
  let own: OwnMemory | undefined;
  try {
    const hello = greeting(featuresOf(socket, options), options);
    let peer: PeerCredentials | undefined;
    if (socket instanceof ControlSocket) {
      peer = socket.addon.peerCredentials(socket.descriptor);
      if (hasSharedMemory(hello.featuresSupported)) own = createOwnMemory(socket.addon, options.geometry);
      sendGreeting(socket, hello, own);
    } else {
      socket.send(hello);
    }
    const answer = checkAnswer(await socket.receive(received, signal), hello);
    const maxStreams = Math.min(options.maxStreams, answer.maxStreams);
    const windows = windowsOf(answer.features, options, answer.streamWindowBytes);
    if (hasSharedMemory(answer.features)) {
      const { carrier } = shareMemory(socket as ControlSocket, own!, received, peer!, options, answer.features);
      (socket as ControlSocket).handOver(carrier);
      return { carrier, peer, maxStreams, windows };
    }
    expectNoDescriptors(received);
    own?.close();
    return { carrier: streamFrames(socket), peer, maxStreams, windows };
  } catch (error) {
    own?.close();
    closeDescriptors(socket, received);
    socket.close();
    throw handshakeError(error);
  }
}

export function greeting(supported: number, options: Pick<LinkOptions, "carrier" | "maxStreams" | "streamWindowBytes">): Hello {
  return {
    kind: "hello",
    minVersion: PROTOCOL_VERSION_MIN,
    maxVersion: PROTOCOL_VERSION_MAX,
    featuresSupported: supported,
    featuresRequired: options.carrier === "shm" ? FEATURE.sharedMemory : 0,
    maxStreams: options.maxStreams,
    streamWindowBytes: options.streamWindowBytes,
  };
}

/** @throws ConnectError, SystemError */
export function sendGreeting(socket: DoorbellSocket, hello: Hello, own: OwnMemory | undefined): void {
  try {
    socket.send(hello, own === undefined ? [] : [own.ringDescriptor, own.arenaDescriptor]);
  } catch (error) {
    // A server that refuses this peer does not wait for its greeting; why it refused is still there to be read.
    if (!isSystemError(error) || error.code !== "EPIPE") throw error;
  }
  own?.descriptorsSent();
}

/** What the server agreed to. @throws ConnectError if it refuses, or chose what was not on offer */
export function checkAnswer(answer: HandshakeMessage, hello: Hello): Welcome {
  const unfit = (text: string) => withOutlook(new ConnectError(text, Code.Unavailable), "lasting");
  if (answer.kind === "refused") throw withOutlook(new ConnectError(answer.message, statusCode(answer.code)), "leaving");
  if (answer.kind !== "welcome") throw unfit("the server answered the handshake with a greeting of its own");
  if (answer.version < PROTOCOL_VERSION_MIN || answer.version > PROTOCOL_VERSION_MAX) {
    throw unfit(`the server chose protocol version ${answer.version}, which this client does not speak`);
  }
  const unasked = (answer.features & ~hello.featuresSupported) >>> 0;
  if (unasked !== 0) throw unfit(`the server chose features 0x${unasked.toString(16)}, which this client did not offer`);
  if ((hello.featuresRequired & ~answer.features) !== 0) throw unfit("the server does not take the shared memory that this client requires");
  return answer;
}

/**
 * The server's half. Takes `socket` over, also when it throws.
 * @param refusal why this peer is not let in, if so
 * @throws ConnectError
 */
export async function welcome(
  socket: HandshakeSocket,
  peer: PeerCredentials | undefined,
  refusal: ConnectError | undefined,
  options: LinkOptions,
  signal: AbortSignal,
): Promise<Link> {
  const received: number[] = [];
  let own: OwnMemory | undefined;
  let memory: ConnectionMemory | undefined;
  try {
    if (refusal !== undefined) throw refusal;
    const hello = await socket.receive(received, signal);
    if (hello.kind !== "hello") throw new ConnectError("the client did not start with a greeting", Code.InvalidArgument);
    const agreed = negotiate(hello, featuresOf(socket, options), options.carrier === "shm" ? FEATURE.sharedMemory : 0);
    if ("refusal" in agreed) throw new ConnectError(agreed.refusal, Code.FailedPrecondition);
    const answer = { kind: "welcome", version: agreed.version, features: agreed.features, maxStreams: options.maxStreams, streamWindowBytes: options.streamWindowBytes } as const;
    const maxStreams = Math.min(options.maxStreams, hello.maxStreams);
    const windows = windowsOf(agreed.features, options, hello.streamWindowBytes);
    if (!hasSharedMemory(agreed.features)) {
      // A client that offered memory to a server without it sent descriptors; they are not needed.
      if (!hasSharedMemory(hello.featuresSupported)) expectNoDescriptors(received);
      closeDescriptors(socket, received);
      socket.send(answer);
      return { carrier: streamFrames(socket), peer, maxStreams, windows };
    }
    const control = socket as ControlSocket;
    own = createOwnMemory(control.addon, options.geometry);
    // Joined before WELCOME: a peer whose memory cannot be mapped is refused with the reason.
    const shared = shareMemory(control, own, received, peer!, options, agreed.features);
    memory = shared.memory;
    control.send(answer, [own.ringDescriptor, own.arenaDescriptor]);
    own.descriptorsSent();
    control.handOver(shared.carrier);
    return { carrier: shared.carrier, peer, maxStreams, windows };
  } catch (error) {
    // The client reads this: whose limit was reached must be plain.
    const failure = handshakeError(error);
    const refused = isSystemError(error) ? new ConnectError(`the server: ${failure.rawMessage}`, failure.code, undefined, undefined, error) : failure;
    memory?.close();
    own?.close();
    closeDescriptors(socket, received);
    socket.refuse({ kind: "refused", code: refused.code, message: refused.rawMessage });
    throw refused;
  }
}

/** What this end can do on this socket, as it was told to. */
function featuresOf(socket: HandshakeSocket, options: LinkOptions): number {
  const memory = socket instanceof ControlSocket && options.carrier !== "socket" ? FEATURE.sharedMemory | FEATURE.spans : 0;
  return memory | FEATURE.streams;
}

function windowsOf(features: number, options: LinkOptions, peer: number | undefined): StreamWindows | undefined {
  return (features & FEATURE.streams) === 0 || peer === undefined ? undefined : { own: options.streamWindowBytes, peer };
}

export function hasSharedMemory(features: number): boolean {
  return (features & FEATURE.sharedMemory) !== 0;
}

function shareMemory(
  socket: ControlSocket,
  own: OwnMemory,
  received: number[],
  peer: PeerCredentials,
  options: LinkOptions,
  features: number,
): { carrier: ShmCarrier; memory: ConnectionMemory } {
  const isShared = options.isolation === undefined ? isSameUser(peer) : options.isolation === "shared";
  const memory = joinMemory(socket.addon, own, received.splice(0), isShared);
  return { carrier: new ShmCarrier(memory, socket, options.pollMicros, (features & FEATURE.spans) !== 0), memory };
}

function streamFrames(socket: HandshakeSocket): SocketCarrier {
  return new SocketCarrier(socket instanceof ControlSocket ? socket.toStream() : socket);
}

function expectNoDescriptors(received: readonly number[]): void {
  if (received.length > 0) throw new Violation("SEGMENT-5", `${received.length} descriptors without shared memory`);
}

function closeDescriptors(socket: HandshakeSocket, descriptors: number[]): void {
  if (!(socket instanceof ControlSocket)) return;
  for (const descriptor of descriptors.splice(0)) socket.addon.closeDescriptor(descriptor);
}

export function handshakeError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof Violation) return withOutlook(new ConnectError(error.message, Code.Unavailable), "lasting");
  if (isSystemError(error)) {
    const exhausted = ["ENOMEM", "ENOSPC", "EMFILE", "ENFILE"].includes(error.code);
    return new ConnectError(error.message, exhausted ? Code.ResourceExhausted : Code.Unavailable, undefined, undefined, error);
  }
  return ConnectError.from(error, Code.Internal);
}

function statusCode(code: Code): Code {
  return code >= Code.Canceled && code <= Code.Unauthenticated ? code : Code.Unknown;
}
