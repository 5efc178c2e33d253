/**
 * From a connected control socket to a running carrier, at both ends: exchanges HELLO and WELCOME with the segments'
 * descriptors, checks what the peer sent, and hands the socket over to be the doorbell line.
 *
 * HANDSHAKE-1  Whatever happens (refusal, time-out, garbage, death of the peer), every descriptor and mapping made on
 *              the way is closed.
 * HANDSHAKE-2  A side maps the peer's memory only after version and features are agreed.
 */
import { constants } from "node:os";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ArenaGeometry, RingGeometry } from "../memory/layout.js";
import type { ConnectionMemory, OwnMemory } from "../memory/segment.js";
import { createOwnMemory, joinMemory } from "../memory/segment.js";
import { Violation } from "../memory/violation.js";
import type { Addon, PeerCredentials, WatchHandle } from "../os/addon.js";
import { isSystemError } from "../os/addon.js";
import type { HandshakeMessage } from "../wire/hello.js";
import {
  decodeHandshake,
  encodeHandshake,
  FEATURE,
  FEATURES_SUPPORTED,
  handshakeLength,
  negotiate,
  PREFIX_BYTES,
  PROTOCOL_VERSION_MAX,
  PROTOCOL_VERSION_MIN,
} from "../wire/hello.js";
import type { DoorbellLine } from "./shm.js";
import { ShmCarrier } from "./shm.js";

/** A ring's and an arena's. */
const DESCRIPTORS_MAX = 2;

export interface LinkOptions {
  readonly geometry: RingGeometry & ArenaGeometry;
  readonly handshakeTimeoutMs: number;
  readonly pollMicros: number;
  /** Streams that this side accepts at once. */
  readonly maxStreams: number;
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
  readonly carrier: ShmCarrier;
  readonly memory: ConnectionMemory;
  readonly peer: PeerCredentials;
  /** Streams that may be open at once: the smaller of what both ends accept. */
  readonly maxStreams: number;
}

/** A control socket during the handshake and after it. Owns the descriptor. */
export class ControlSocket implements DoorbellLine {
  private readonly addon: Addon;
  readonly descriptor: number;
  private readonly watch: WatchHandle;
  private closed = false;
  private carrier: ShmCarrier | undefined;
  private waiting: { onReadable: () => void; fail: (error: Error) => void } | undefined;
  private hungUp = false;
  /** Empty between events. */
  private readonly received: number[] = [];

  /** Takes `descriptor` over, also when it throws. */
  constructor(addon: Addon, descriptor: number) {
    this.addon = addon;
    this.descriptor = descriptor;
    try {
      this.watch = addon.watch(descriptor, (readable, hangup) => this.onEvent(readable, hangup));
    } catch (error) {
      addon.closeDescriptor(descriptor);
      throw error;
    }
  }

  private onEvent(readable: boolean, hangup: boolean): void {
    if (hangup) this.hungUp = true;
    if (this.carrier !== undefined) this.onDoorbell(this.carrier, readable, hangup);
    else if (this.waiting !== undefined) this.waiting.onReadable();
    // Nobody is listening: a level-triggered event would come again at once and for ever.
    else if (hangup) this.close();
  }

  private onDoorbell(carrier: ShmCarrier, readable: boolean, hangup: boolean): void {
    const taken = readable ? this.addon.clearDoorbell(this.descriptor, this.received) : 0;
    // Nothing that was agreed on lets a peer send descriptors.
    const unexpected = this.received.splice(0);
    for (const descriptor of unexpected) this.addon.closeDescriptor(descriptor);
    if (taken < -1 || unexpected.length > 0) carrier.close({ cause: "violation", detail: "protocol violation BELL-5: unknown bytes on the control socket" });
    else if (taken > 0) carrier.onDoorbell(taken);
    if (taken === -1 || hangup) carrier.onHangup();
  }

  /** Receives one whole handshake message, and no byte past it. @throws ConnectError */
  receive(descriptors: number[], signal: AbortSignal): Promise<HandshakeMessage> {
    let buffer = new Uint8Array(PREFIX_BYTES);
    let filled = 0;
    let whole = false;
    const notIsthmus = (what: string) => new ConnectError(`${what}; is this the socket of an Isthmus peer?`, Code.Unavailable);
    return new Promise<HandshakeMessage>((resolve, reject) => {
      const settle = (act: () => void) => {
        this.waiting = undefined;
        signal.removeEventListener("abort", onAbort);
        act();
      };
      const onAbort = () => settle(() => reject(signal.reason as Error));
      const onReadable = () => {
        try {
          for (;;) {
            const got = this.addon.receiveMessage(this.descriptor, buffer.subarray(filled));
            descriptors.push(...got.descriptors);
            // Each byte could bring more of them.
            if (descriptors.length > DESCRIPTORS_MAX) throw notIsthmus(`the peer sent ${descriptors.length} descriptors`);
            if (got.byteLength < 0) {
              if (this.hungUp) throw new ConnectError("the peer closed the connection during the handshake", Code.Unavailable);
              return;
            }
            if (got.byteLength === 0) {
              throw notIsthmus(filled === 0 ? "the peer closed the connection without an answer" : "the peer closed the connection during the handshake");
            }
            filled += got.byteLength;
            if (filled < buffer.length) continue;
            if (!whole) {
              const byteLength = handshakeLength(buffer);
              if (byteLength === undefined) throw notIsthmus("the peer's first bytes are not Isthmus's");
              const longer = new Uint8Array(byteLength);
              longer.set(buffer);
              buffer = longer;
              whole = true;
              continue;
            }
            const message = decodeHandshake(buffer);
            if (message === undefined) throw notIsthmus("the peer's handshake is malformed");
            settle(() => resolve(message));
            return;
          }
        } catch (error) {
          settle(() => reject(error instanceof Error ? error : new Error(String(error))));
        }
      };
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      this.waiting = { onReadable, fail: (error) => settle(() => reject(error)) };
      onReadable();
    });
  }

  /** Sends a handshake message; it is far smaller than any socket buffer. @throws SystemError */
  send(message: HandshakeMessage, descriptors: number[]): void {
    const bytes = encodeHandshake(message);
    const sent = this.addon.sendMessage(this.descriptor, bytes, descriptors);
    if (sent !== bytes.length) {
      throw new ConnectError(`the handshake could not be sent: the socket took ${sent} of ${bytes.length} bytes`, Code.Unavailable);
    }
  }

  /** From now on events are doorbells of `carrier`. */
  handOver(carrier: ShmCarrier): void {
    this.carrier = carrier;
    this.addon.unrefWatch(this.watch);
    // The hang-up may have come while nobody listened.
    if (this.hungUp) setImmediate(() => carrier.onHangup());
  }

  ring(): boolean {
    const failure = -this.addon.ringDoorbell(this.descriptor);
    // A full buffer means that the peer has unread rings and will wake; a dead peer shows as a hang-up.
    return failure !== constants.errno.ENOBUFS && failure !== constants.errno.ENOMEM;
  }

  keepAlive(on: boolean): void {
    if (this.closed) return;
    if (on) this.addon.refWatch(this.watch);
    else this.addon.unrefWatch(this.watch);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.addon.closeWatch(this.watch);
    this.addon.shutdownSocket(this.descriptor);
    this.addon.closeDescriptor(this.descriptor);
    this.waiting?.fail(new ConnectError("the connection was closed during the handshake", Code.Unavailable));
  }
}

/** The client's half. Takes `socket` over, also when it throws. @throws ConnectError */
export async function greet(addon: Addon, socket: ControlSocket, options: LinkOptions, signal: AbortSignal): Promise<Link> {
  const received: number[] = [];
  let own: OwnMemory | undefined;
  try {
    const peer = addon.peerCredentials(socket.descriptor);
    own = createOwnMemory(addon, options.geometry);
    const hello: HandshakeMessage = {
      kind: "hello",
      minVersion: PROTOCOL_VERSION_MIN,
      maxVersion: PROTOCOL_VERSION_MAX,
      featuresSupported: FEATURES_SUPPORTED,
      featuresRequired: 0,
      maxStreams: options.maxStreams,
    };
    try {
      socket.send(hello, [own.ringDescriptor, own.arenaDescriptor]);
    } catch (error) {
      // A server that refuses this peer does not wait for its greeting; why it refused is still there to be read.
      if (!isSystemError(error) || error.code !== "EPIPE") throw error;
    }
    own.descriptorsSent();
    const answer = await socket.receive(received, signal);
    if (answer.kind === "refused") throw new ConnectError(answer.message, statusCode(answer.code));
    if (answer.kind !== "welcome") throw new ConnectError("the server answered the handshake with a greeting of its own", Code.Unavailable);
    if (answer.version < PROTOCOL_VERSION_MIN || answer.version > PROTOCOL_VERSION_MAX) {
      throw new ConnectError(`the server chose protocol version ${answer.version}, which this client does not speak`, Code.Unavailable);
    }
    const link = makeLink(addon, socket, own, received, peer, options, answer.maxStreams, answer.features & FEATURES_SUPPORTED);
    socket.handOver(link.carrier);
    return link;
  } catch (error) {
    own?.close();
    for (const descriptor of received.splice(0)) addon.closeDescriptor(descriptor);
    socket.close();
    throw handshakeError(error);
  }
}

/**
 * The server's half. Takes `socket` over, also when it throws.
 * @param refusal why this peer is not let in, if so
 * @throws ConnectError
 */
export async function welcome(
  addon: Addon,
  socket: ControlSocket,
  peer: PeerCredentials,
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
    const agreed = negotiate(hello);
    if ("refusal" in agreed) throw new ConnectError(agreed.refusal, Code.FailedPrecondition);
    own = createOwnMemory(addon, options.geometry);
    // Joined before WELCOME: a peer whose memory cannot be mapped is refused with the reason.
    const link = makeLink(addon, socket, own, received, peer, options, hello.maxStreams, agreed.features);
    memory = link.memory;
    socket.send(
      { kind: "welcome", version: agreed.version, features: agreed.features, maxStreams: options.maxStreams },
      [own.ringDescriptor, own.arenaDescriptor],
    );
    own.descriptorsSent();
    socket.handOver(link.carrier);
    return link;
  } catch (error) {
    // The client reads this: whose limit was reached must be plain.
    const failure = handshakeError(error);
    const refused = isSystemError(error) ? new ConnectError(`the server: ${failure.rawMessage}`, failure.code, undefined, undefined, error) : failure;
    memory?.close();
    own?.close();
    for (const descriptor of received.splice(0)) addon.closeDescriptor(descriptor);
    refuse(socket, refused);
    throw refused;
  }
}

/** Tells the client why and closes; a client that is gone already hears nothing. */
function refuse(socket: ControlSocket, refusal: ConnectError): void {
  try {
    socket.send({ kind: "refused", code: refusal.code, message: refusal.rawMessage }, []);
  } catch {
    // It hung up.
  }
  socket.close();
}

function makeLink(
  addon: Addon,
  socket: ControlSocket,
  own: OwnMemory,
  received: number[],
  peer: PeerCredentials,
  options: LinkOptions,
  peerMaxStreams: number,
  features: number,
): Link {
  const isShared = options.isolation === undefined ? isSameUser(peer) : options.isolation === "shared";
  const memory = joinMemory(addon, own, received.splice(0), isShared);
  const carrier = new ShmCarrier(memory, socket, options.pollMicros, (features & FEATURE.spans) !== 0);
  return { carrier, memory, peer, maxStreams: Math.min(options.maxStreams, peerMaxStreams) };
}

function handshakeError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof Violation) return new ConnectError(error.message, Code.Unavailable);
  if (isSystemError(error)) {
    const exhausted = ["ENOMEM", "ENOSPC", "EMFILE", "ENFILE"].includes(error.code);
    return new ConnectError(error.message, exhausted ? Code.ResourceExhausted : Code.Unavailable, undefined, undefined, error);
  }
  return ConnectError.from(error, Code.Internal);
}

function statusCode(code: Code): Code {
  return code >= Code.Canceled && code <= Code.Unauthenticated ? code : Code.Unknown;
}
