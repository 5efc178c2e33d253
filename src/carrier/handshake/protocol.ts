/**
 * The handshake as two state machines without I/O, one for each end: which message follows which, what both ends agree
 * on, and when memory is made and mapped. A machine is a generator that yields whenever it needs the peer's next
 * message. Everything else it does through a `HandshakePort`, which never waits. So the same machine serves an event
 * loop and a thread that blocks.
 *
 * HANDSHAKE-2  A side maps the peer's memory only after version and features are agreed.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { Violation } from "../../memory/shm/violation.js";
import { isSystemError } from "../../os/addon.js";
import type { Accepted, HandshakeMessage, Hello, Refused } from "../../wire/hello.js";
import {
  FEATURE,
  LACK_UNSAID,
  negotiate,
  PROTOCOL_VERSION_MAX,
  PROTOCOL_VERSION_MIN,
  reasonWithoutMemory,
} from "../../wire/hello.js";
import { retryabilityOf, withRetryability } from "../retryability.js";
import type { LinkOptions, StreamWindows } from "./link.js";

/** One end's socket and memory, as its machine uses them. */
export interface HandshakePort {
  /** Whether descriptors can travel with the messages. */
  readonly carriesDescriptors: boolean;
  /** Descriptors that came with the peer's messages. */
  readonly descriptorsReceived: number;
  /**
   * Makes this end's memory. Returns why there is none; undefined: it is made.
   * @throws an error that ends the handshake
   */
  makeMemory(): string | undefined;
  /**
   * @param withMemory whether the descriptors of this end's memory go along
   * @throws SystemError EPERM if the peer's socket refuses them
   */
  send(message: HandshakeMessage, withMemory: boolean): void;
  /** Lets the peer send descriptors. False: it could do so before. */
  takeDescriptors(): boolean;
  /** Checks and maps the peer's memory, whose descriptors came with its message. */
  joinMemory(): void;
  /** Closes this end's memory and the peer's descriptors: frames will travel on the socket. */
  dropMemory(): void;
}

/** What both ends agree on. */
export interface Agreement {
  /** Why frames travel on the socket; undefined: they lie in shared memory. */
  readonly reason: string | undefined;
  /** Whether frames may have splice tables. */
  readonly spans: boolean;
  readonly maxStreams: number;
  readonly windows: StreamWindows | undefined;
}

/** Yields when it needs a message, which `next` is then called with. */
export type Handshake = Generator<"receive", Agreement, HandshakeMessage>;

type Terms = Pick<LinkOptions, "carrier" | "lack" | "maxStreams" | "streamWindowBytes">;

/**
 * The client's end.
 * @param streams whether this client makes streaming calls
 * @throws ConnectError, Violation, or what the port throws
 */
export function* clientEnd(port: HandshakePort, terms: Terms, streams: boolean): Handshake {
  let { lack } = terms;
  if (port.carriesDescriptors && lack === undefined) lack = port.makeMemory();
  const features = featuresOf(port, lack, streams);
  const hello: Hello = {
    kind: "hello",
    minVersion: PROTOCOL_VERSION_MIN,
    maxVersion: PROTOCOL_VERSION_MAX,
    featuresSupported: features,
    featuresRequired: requiredBy(terms),
    maxStreams: terms.maxStreams,
    streamWindowBytes: terms.streamWindowBytes,
    lack,
  };
  sendHello(port, hello, hasSharedMemory(features));
  let received = yield "receive";
  if (received.kind === "ready" && hasSharedMemory(features)) {
    port.send({ kind: "memory" }, true);
    received = yield "receive";
  }
  const answer = checkAnswer(received, hello);
  const agreed = (reason: string | undefined) => agreementOn(terms, answer.features, answer, reason);
  if (hasSharedMemory(answer.features)) {
    port.joinMemory();
    return agreed(undefined);
  }
  expectNoDescriptors(port);
  port.dropMemory();
  return agreed(reasonWithoutMemory(lack, answer.lack ?? (lack === undefined ? LACK_UNSAID : undefined)));
}

/**
 * The server's end.
 * @throws ConnectError, Violation, or what the port throws. The client is then told `refusalFor` the error
 */
export function* serverEnd(port: HandshakePort, terms: Terms): Handshake {
  const hello = yield "receive";
  if (hello.kind !== "hello") throw new ConnectError("the client did not start with a greeting", Code.InvalidArgument);
  const isOffered = hasSharedMemory(hello.featuresSupported);
  let { lack } = terms;
  let { version, features } = agree(hello, port, terms, lack);
  if (hasSharedMemory(features)) {
    lack = port.makeMemory();
    if (lack !== undefined) ({ version, features } = agree(hello, port, terms, lack));
  }
  if (hasSharedMemory(features) && port.descriptorsReceived === 0 && port.takeDescriptors()) {
    port.send({ kind: "ready" }, false);
    const { kind } = yield "receive";
    if (kind !== "memory") throw new ConnectError("the client did not send its memory", Code.InvalidArgument);
  }
  const { maxStreams, streamWindowBytes } = terms;
  const answer: Accepted = { kind: "accepted", version, features, maxStreams, streamWindowBytes, lack };
  if (hasSharedMemory(features)) {
    // Joined before ACCEPTED is sent, so that a client whose memory cannot be mapped is refused with the reason.
    port.joinMemory();
    port.send(answer, true);
    return agreementOn(terms, features, hello, undefined);
  }
  // A client that offers memory has sent its descriptors, also to a server without.
  if (!isOffered) expectNoDescriptors(port);
  port.dropMemory();
  port.send(answer, false);
  const reason = reasonWithoutMemory(hello.lack ?? (isOffered ? undefined : LACK_UNSAID), lack);
  return agreementOn(terms, features, hello, reason);
}

/** With the descriptors, or without them if the server takes none yet. It says so when it does. */
function sendHello(port: HandshakePort, hello: Hello, withMemory: boolean): void {
  try {
    port.send(hello, withMemory);
  } catch (error) {
    if (isSystemError(error) && error.code === "EPERM" && withMemory) return sendHello(port, hello, false);
    // A server that refuses this peer does not wait for its HELLO. The refusal can still be read.
    if (!isSystemError(error) || error.code !== "EPIPE") throw error;
  }
}

/**
 * What a server tells a client that it refuses, and what the client is to expect of another attempt.
 */
export function refusalFor(error: ConnectError): Refused {
  const retryability = retryabilityOf(error) === "draining" ? "draining" : "permanent";
  return { kind: "refused", code: error.code, retryability, message: error.rawMessage };
}

/** What this end can do on its socket. */
function featuresOf(port: HandshakePort, lack: string | undefined, streams: boolean): number {
  const memory = port.carriesDescriptors && lack === undefined ? FEATURE.sharedMemory | FEATURE.spans : 0;
  return memory | (streams ? FEATURE.streams : 0);
}

function requiredBy({ carrier }: Terms): number {
  return carrier === "shm" ? FEATURE.sharedMemory : 0;
}

function hasSharedMemory(features: number): boolean {
  return (features & FEATURE.sharedMemory) !== 0;
}

/** What the server agreed to. @throws ConnectError if it refuses, or chose what was not on offer */
function checkAnswer(answer: HandshakeMessage, hello: Hello): Accepted {
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
 * The error of a client that is refused. An older server does not say what to expect of another attempt; if it is
 * unavailable, it is taken to be draining.
 */
function refusedBy({ code, retryability, message }: Refused): ConnectError {
  const error = new ConnectError(message, statusCode(code));
  return withRetryability(error, retryability ?? (error.code === Code.Unavailable ? "draining" : "permanent"));
}

function statusCode(code: Code): Code {
  return code >= Code.Canceled && code <= Code.Unauthenticated ? code : Code.Unknown;
}

/** @throws ConnectError `FailedPrecondition` if there is nothing to agree on */
function agree(
  hello: Hello,
  port: HandshakePort,
  terms: Terms,
  lack: string | undefined,
): { version: number; features: number } {
  const agreed = negotiate(hello, featuresOf(port, lack, true), requiredBy(terms), lack);
  if ("refusal" in agreed) throw new ConnectError(agreed.refusal, Code.FailedPrecondition);
  return agreed;
}

function agreementOn(
  terms: Terms,
  features: number,
  { maxStreams, streamWindowBytes }: Hello | Accepted,
  reason: string | undefined,
): Agreement {
  const hasStreams = (features & FEATURE.streams) !== 0 && streamWindowBytes !== undefined;
  return {
    reason,
    spans: (features & FEATURE.spans) !== 0,
    maxStreams: Math.min(terms.maxStreams, maxStreams),
    windows: hasStreams ? { own: terms.streamWindowBytes, peer: streamWindowBytes } : undefined,
  };
}

function expectNoDescriptors({ descriptorsReceived }: HandshakePort): void {
  if (descriptorsReceived > 0)
    throw new Violation("SEGMENT-5", `${descriptorsReceived} descriptors without shared memory`);
}
