/**
 * From a connected socket to a running carrier, at both ends: exchanges HELLO and ACCEPTED, with the segments'
 * descriptors where both ends have shared memory, checks what the peer sent, and hands the socket over: to be the
 * doorbell line, or to carry the frames itself.
 *
 * HANDSHAKE-1  Whatever happens (refusal, time-out, garbage, death of the peer), every descriptor and mapping made on
 *              the way is closed.
 * HANDSHAKE-2  A side maps the peer's memory only after version and features are agreed.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ArenaGeometry, RingGeometry } from "../../memory/shared/layout.js";
import type { ConnectionMemory, OwnMemory } from "../../memory/shared/segment.js";
import { isLimit, isRefusal } from "../../memory/shared/ability.js";
import { createOwnMemory, joinMemory } from "../../memory/shared/segment.js";
import { Violation } from "../../memory/shared/violation.js";
import type { Addon, PeerCredentials } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import type { HandshakeMessage, Hello, Refused, Accepted } from "../../wire/hello.js";
import {
  FEATURE,
  LACK_UNSAID,
  negotiate,
  PROTOCOL_VERSION_MAX,
  PROTOCOL_VERSION_MIN,
  reasonWithoutMemory,
} from "../../wire/hello.js";
import type { Carrier } from "../carrier.js";
import { ControlSocket } from "../shm/control-socket.js";
import type { DoorbellSocket } from "../shm/doorbell-socket.js";
import { ShmCarrier } from "../shm/shm.js";
import { SocketCarrier } from "../socket/socket.js";
import { warnOfLack } from "./lack.js";
import { isPeerGone, retryabilityOf, withRetryability } from "./retryability.js";
import type { StreamSocket } from "../socket/stream-socket.js";

export type End = "client" | "server";

export interface LinkOptions {
  /** "shm": shared memory or nothing; "socket": never shared memory. */
  readonly carrier: "auto" | "shm" | "socket";
  /** Why this end has no shared memory, if it is known ahead that it has none; the peer is told. */
  readonly lack: string | undefined;
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
 * - "shared": large values are used where the peer wrote them. It could change them while they are read, so a check on
 *   a value could be outrun; nothing but these values is exposed to that.
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
export async function clientHandshake(
  socket: HandshakeSocket,
  options: LinkOptions,
  signal: AbortSignal,
): Promise<Link> {
  const received: number[] = [];
  let own: OwnMemory | undefined;
  try {
    let { lack } = options;
    let peer: PeerCredentials | undefined;
    if (socket instanceof ControlSocket) {
      peer = socket.addon.peerCredentials(socket.descriptor);
      if (lack === undefined) {
        const made = makeMemory("client", socket.addon, options);
        if (typeof made === "string") lack = made;
        else own = made;
      }
    }
    const hello = greeting(featuresOf(socket, lack), options, lack);
    if (socket instanceof ControlSocket) sendGreeting(socket, hello, own);
    else socket.send(hello);
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
    const reason = reasonWithoutMemory(lack, answer.lack ?? (lack === undefined ? LACK_UNSAID : undefined));
    return { carrier: streamFrames(socket, reason), peer, maxStreams, windows };
  } catch (error) {
    own?.close();
    closeDescriptors(socket, received);
    socket.close();
    throw handshakeError(error, "client");
  }
}

export function greeting(
  supported: number,
  options: Pick<LinkOptions, "carrier" | "maxStreams" | "streamWindowBytes">,
  lack?: string,
): Hello {
  return {
    kind: "hello",
    minVersion: PROTOCOL_VERSION_MIN,
    maxVersion: PROTOCOL_VERSION_MAX,
    featuresSupported: supported,
    featuresRequired: options.carrier === "shm" ? FEATURE.sharedMemory : 0,
    maxStreams: options.maxStreams,
    streamWindowBytes: options.streamWindowBytes,
    lack,
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
export function checkAnswer(answer: HandshakeMessage, hello: Hello): Accepted {
  const unfit = (text: string) => withRetryability(new ConnectError(text, Code.Unavailable), "permanent");
  if (answer.kind === "refused") throw refusedBy(answer);
  if (answer.kind !== "accepted") throw unfit("the server answered the handshake with a greeting of its own");
  if (answer.version < PROTOCOL_VERSION_MIN || answer.version > PROTOCOL_VERSION_MAX) {
    throw unfit(`the server chose protocol version ${answer.version}, which this client does not speak`);
  }
  const unasked = (answer.features & ~hello.featuresSupported) >>> 0;
  if (unasked !== 0)
    throw unfit(`the server chose features 0x${unasked.toString(16)}, which this client did not offer`);
  if ((hello.featuresRequired & ~answer.features) !== 0)
    throw unfit("the server does not take the shared memory that this client requires");
  return answer;
}

/**
 * What a server said that lets this client not in. One of a release that does not say what to expect of another attempt
 * is taken to be leaving if it is unavailable.
 */
function refusedBy({ code, retryability, message }: Refused): ConnectError {
  const error = new ConnectError(message, statusCode(code));
  return withRetryability(error, retryability ?? (error.code === Code.Unavailable ? "draining" : "permanent"));
}

/**
 * The server's half. Takes `socket` over, also when it throws.
 * @param refusal why this peer is not let in, if so
 * @throws ConnectError
 */
export async function serverHandshake(
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
    if (hello.kind !== "hello")
      throw new ConnectError("the client did not start with a greeting", Code.InvalidArgument);
    const maxStreams = Math.min(options.maxStreams, hello.maxStreams);
    const offered = hasSharedMemory(hello.featuresSupported);
    let { lack } = options;
    let agreed = agree(hello, socket, options, lack);
    if (hasSharedMemory(agreed.features)) {
      const made = makeMemory("server", (socket as ControlSocket).addon, options);
      if (typeof made === "string") agreed = agree(hello, socket, options, (lack = made));
      else own = made;
    }
    const answer: Accepted = {
      kind: "accepted",
      version: agreed.version,
      features: agreed.features,
      maxStreams: options.maxStreams,
      streamWindowBytes: options.streamWindowBytes,
      lack,
    };
    const windows = windowsOf(agreed.features, options, hello.streamWindowBytes);
    if (!hasSharedMemory(agreed.features)) {
      // A client that offered memory to a server without it sent descriptors; they are not needed.
      if (!offered) expectNoDescriptors(received);
      closeDescriptors(socket, received);
      socket.send(answer);
      return {
        carrier: streamFrames(socket, reasonWithoutMemory(hello.lack ?? (offered ? undefined : LACK_UNSAID), lack)),
        peer,
        maxStreams,
        windows,
      };
    }
    const control = socket as ControlSocket;
    // Joined before ACCEPTED: a peer whose memory cannot be mapped is refused with the reason.
    const shared = shareMemory(control, own!, received, peer!, options, agreed.features);
    memory = shared.memory;
    control.send(answer, [own!.ringDescriptor, own!.arenaDescriptor]);
    own!.descriptorsSent();
    control.handOver(shared.carrier);
    return { carrier: shared.carrier, peer, maxStreams, windows };
  } catch (error) {
    const refused = handshakeError(error, "server");
    memory?.close();
    own?.close();
    closeDescriptors(socket, received);
    // The client reads this, and goes by the retryability.
    socket.refuse({
      kind: "refused",
      code: refused.code,
      retryability: retryabilityOf(refused) === "draining" ? "draining" : "permanent",
      message: refused.rawMessage,
    });
    throw refused;
  }
}

/** @throws ConnectError `FailedPrecondition` if there is nothing to agree on */
function agree(
  hello: Hello,
  socket: HandshakeSocket,
  options: LinkOptions,
  lack: string | undefined,
): { version: number; features: number } {
  const agreed = negotiate(hello, featuresOf(socket, lack), options.carrier === "shm" ? FEATURE.sharedMemory : 0, lack);
  if ("refusal" in agreed) throw new ConnectError(agreed.refusal, Code.FailedPrecondition);
  return agreed;
}

/** What this end can do on this socket. */
function featuresOf(socket: HandshakeSocket, lack: string | undefined): number {
  const memory = socket instanceof ControlSocket && lack === undefined ? FEATURE.sharedMemory | FEATURE.spans : 0;
  return memory | FEATURE.streams;
}

/**
 * This end's memory; or why it has to do without: because it is refused, not because of a limit, which is likely to
 * pass, and which sockets meet as well.
 * @throws SystemError for a limit, ConnectError `FailedPrecondition` if shared memory is insisted on
 */
function makeMemory(end: End, addon: Addon, options: LinkOptions): OwnMemory | string {
  try {
    return createOwnMemory(addon, options.geometry);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    if (options.carrier === "shm")
      throw new ConnectError(
        `the ${end} insists on shared memory (carrier: "shm"), and has none: ${error.message}`,
        Code.FailedPrecondition,
        undefined,
        undefined,
        error,
      );
    warnOfLack(error.message);
    return error.message;
  }
}

function windowsOf(features: number, options: LinkOptions, peer: number | undefined): StreamWindows | undefined {
  return (features & FEATURE.streams) === 0 || peer === undefined
    ? undefined
    : { own: options.streamWindowBytes, peer };
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

function streamFrames(socket: HandshakeSocket, reason: string): SocketCarrier {
  return new SocketCarrier(socket instanceof ControlSocket ? socket.toStream() : socket, reason);
}

function expectNoDescriptors(received: readonly number[]): void {
  if (received.length > 0) throw new Violation("SEGMENT-5", `${received.length} descriptors without shared memory`);
}

function closeDescriptors(socket: HandshakeSocket, descriptors: number[]): void {
  if (!(socket instanceof ControlSocket)) return;
  for (const descriptor of descriptors.splice(0)) socket.addon.closeDescriptor(descriptor);
}

/** @param end this one: whose limit was reached must be plain */
export function handshakeError(error: unknown, end: End): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof Violation)
    return withRetryability(new ConnectError(error.message, Code.Unavailable), "permanent");
  if (!isSystemError(error)) return ConnectError.from(error, Code.Internal);
  const make = (text: string, code: Code) => new ConnectError(text, code, undefined, undefined, error);
  if (isPeerGone(error)) return make(error.message, Code.Unavailable);
  return withRetryability(
    make(`the ${end}: ${error.message}`, isLimit(error) ? Code.ResourceExhausted : Code.Unavailable),
    "permanent",
  );
}

function statusCode(code: Code): Code {
  return code >= Code.Canceled && code <= Code.Unauthenticated ? code : Code.Unknown;
}
