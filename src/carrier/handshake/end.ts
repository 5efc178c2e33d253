/**
 * One end of a handshake: its socket, the memory that it makes, and the descriptors that come from the peer.
 *
 * HANDSHAKE-1  Whatever ends a handshake (refusal, time-out, garbage, death of the peer), every descriptor and mapping
 *              made on the way is closed.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { isLimit, isRefusal } from "../../memory/shm/ability.js";
import type { ConnectionMemory, OwnMemory } from "../../memory/shm/segment.js";
import { createOwnMemory, joinMemory } from "../../memory/shm/segment.js";
import { assertOwn, Violation } from "../../memory/shm/violation.js";
import type { PeerCredentials } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import type { HandshakeMessage } from "../../wire/hello.js";
import { isPeerGone, withRetryability } from "../retryability.js";
import { DoorbellSocket } from "../shm/doorbell-socket.js";
import type { StreamSocket } from "../socket/stream-socket.js";
import type { Trust } from "../trust.js";
import { PEER_ISOLATES, trustIn } from "../trust.js";
import { warnOfLack } from "./lack.js";
import type { LinkOptions } from "./link.js";
import type { HandshakePort } from "./protocol.js";

/** For error texts: it must be plain whose limit was reached. */
export type EndName = "client" | "server";

export class HandshakeEnd implements HandshakePort {
  /** The peer's process, if the kernel told. */
  readonly peer: PeerCredentials | undefined;
  /** Descriptors that came with the peer's messages. */
  readonly received: number[] = [];
  private readonly name: EndName;
  /** Undefined: the socket carries no descriptors. */
  private readonly socket: DoorbellSocket | undefined;
  private readonly stream: StreamSocket | undefined;
  private readonly options: LinkOptions;
  private own: OwnMemory | undefined;
  /** Set with `own`. */
  private trust: Trust | undefined;
  private memory: ConnectionMemory | undefined;

  constructor(
    name: EndName,
    socket: DoorbellSocket | StreamSocket,
    options: LinkOptions,
    peer: PeerCredentials | undefined,
  ) {
    this.name = name;
    this.options = options;
    if (socket instanceof DoorbellSocket) this.socket = socket;
    else this.stream = socket;
    this.peer = peer;
  }

  get carriesDescriptors(): boolean {
    return this.socket !== undefined;
  }

  get descriptorsReceived(): number {
    return this.received.length;
  }

  /* eslint-disable @typescript-eslint/no-non-null-assertion --
     Memory is shared only over a socket that carries descriptors, whose peer the kernel tells, and only after
     `makeMemory`. Without such a socket there is a stream. */

  /**
   * There is no memory if it is refused. A limit is different: it is likely to pass, and sockets meet it too.
   * @throws SystemError for a limit; ConnectError `FailedPrecondition` if the options insist on shared memory
   */
  makeMemory(): string | undefined {
    try {
      const { addon, descriptor } = this.socket!;
      this.trust = trustIn(addon, descriptor, this.peer!, this.options.isolation);
      this.own = createOwnMemory(addon, this.options.geometry, this.trust.isolation === "snapshot");
      return undefined;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      if (this.options.carrier === "shm")
        throw new ConnectError(
          `the ${this.name} insists on shared memory (carrier: "shm"), but has none: ${error.message}`,
          Code.FailedPrecondition,
          undefined,
          undefined,
          error,
        );
      warnOfLack(error.message);
      return error.message;
    }
  }

  send(message: HandshakeMessage, withMemory: boolean): void {
    const { own, socket } = this;
    if (socket === undefined) return this.stream!.send(message);
    if (!withMemory) return socket.send(message);
    socket.send(message, [own!.ringDescriptor, own!.arenaDescriptor]);
    own!.descriptorsSent();
  }

  takeDescriptors(): boolean {
    const { addon, descriptor } = this.socket!;
    return addon.refuseDescriptors(descriptor, false);
  }

  joinMemory(): void {
    this.memory = joinMemory(this.socket!.addon, this.own!, this.received.splice(0));
    if (!this.memory.isIsolated && this.memory.isPeerIsolated) this.trust = PEER_ISOLATES;
  }

  dropMemory(): void {
    this.own?.close();
    this.own = undefined;
    for (const descriptor of this.received.splice(0)) this.socket!.addon.closeDescriptor(descriptor);
  }

  /* eslint-enable @typescript-eslint/no-non-null-assertion */

  /** Both ends' memory, and how far they trust each other with it. If the handshake succeeds, it belongs to the carrier. */
  get joined(): { readonly memory: ConnectionMemory; readonly trust: Trust } {
    const { memory, trust } = this;
    assertOwn(memory !== undefined && trust !== undefined, "memory is used after it was joined");
    return { memory, trust };
  }

  /** The handshake has failed (HANDSHAKE-1). The socket stays open. */
  close(): void {
    this.memory?.close();
    this.dropMemory();
  }
}

/** What a failed handshake looks like to the caller. */
export function handshakeError(error: unknown, end: EndName): ConnectError {
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
