/**
 * The places of a server: who is connected, who is in the handshake, and who may come in addition.
 *
 * PLACE-1  A client in the handshake takes a place only until somebody else needs it. If there is no place left, the
 *          process with the most handshakes loses its oldest one, unless the newcomer's process has as many; then one
 *          that has been silent for a second makes room. So connections that never speak keep nobody out.
 * PLACE-2  Handlers of a closed connection that still run count for the user whose client made the calls. A user with
 *          too many of them may not connect again until they settle.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { isSameUser } from "../../carrier/trust.js";
import type { PeerCredentials } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";
import type { ServerConnection } from "../../rpc/server/server.js";

/** How long a handshake is not disturbed by others of its process, in milliseconds. */
const UNDISTURBED_MS = 1000;
/** The least number of handlers of closed connections that a user may have. */
const LEFT_HANDLERS_MIN = 1024;

/** Undefined without credentials: such clients count as one process. */
type Peer = PeerCredentials | undefined;

export interface PlaceLimits {
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly handshakes: number;
  /** Undefined: the default, which depends on the user. */
  readonly connectionsPerUser: number | undefined;
  readonly connectionsPerProcess: number | undefined;
}

interface Handshake {
  readonly abort: AbortController;
  readonly peer: Peer;
  readonly since: number;
  /** The server decides about it: the client is not what it waits for. */
  readonly isUndecided: boolean;
}

export class Places {
  readonly connections = new Set<ServerConnection>();
  private readonly limits: PlaceLimits;
  private readonly elsewhere: () => readonly Peer[];
  private readonly handshakes = new Map<AbortController, Handshake>();
  /** Closed connections whose handlers may still run. */
  private readonly left = new Set<ServerConnection>();

  /** @param elsewhere the clients that worker threads serve */
  constructor(limits: PlaceLimits, elsewhere: () => readonly Peer[]) {
    this.limits = limits;
    this.elsewhere = elsewhere;
  }

  /** Number of clients in the handshake. */
  get handshaking(): number {
    return this.handshakes.size;
  }

  /** Number of handlers that run for closed connections, and the memory that they keep. */
  ofClosed(): { readonly handlers: number; readonly keptBytes: number } {
    let handlers = 0;
    let keptBytes = 0;
    for (const connection of this.left) {
      handlers += connection.handlers.running;
      keptBytes += connection.kept.used;
      if (connection.handlers.running === 0) this.left.delete(connection);
    }
    return { handlers, keptBytes };
  }

  begin(abort: AbortController, peer: Peer, isUndecided = false): void {
    this.handshakes.set(abort, { abort, peer, since: nowMs(), isUndecided });
  }

  end(abort: AbortController): void {
    this.handshakes.delete(abort);
  }

  open(connection: ServerConnection): void {
    this.connections.add(connection);
  }

  close(connection: ServerConnection): void {
    this.connections.delete(connection);
    if (connection.handlers.running > 0) this.left.add(connection);
  }

  /** Ends all handshakes. */
  abortAll(reason: ConnectError): void {
    for (const abort of this.handshakes.keys()) abort.abort(reason);
  }

  /** Makes room for one more client. @returns why there is none, if so */
  refusalFor(peer: Peer): ConnectError | undefined {
    return this.refusalOfUser(peer) ?? this.makeRoom(peer);
  }

  /** Whether so many clients are in the handshake that a refused one is not even told why. */
  get isCrowded(): boolean {
    return this.handshakes.size >= this.limits.handshakes;
  }

  private refusalOfUser(peer: Peer): ConnectError | undefined {
    if (peer === undefined) return undefined;
    const { uid, pid } = peer;
    const { maxConnections, maxStreams } = this.limits;
    const isOwn = isSameUser(peer);
    const perUser = this.limits.connectionsPerUser ?? (isOwn ? Infinity : Math.max(1, Math.floor(maxConnections / 2)));
    const perProcess = this.limits.connectionsPerProcess ?? (isOwn ? Infinity : CONNECTIONS_PER_PROCESS);
    let ofUser = 0;
    let ofProcess = 0;
    for (const other of this.peers()) {
      if (other?.uid === uid) ofUser++;
      if (other?.pid === pid) ofProcess++;
    }
    if (ofUser >= perUser)
      return tooMany(`user ${uid} has ${ofUser} connections to the server, the limit (limits.connectionsPerUser)`);
    if (ofProcess >= perProcess)
      return tooMany(`process ${pid} has ${ofProcess} connections, the server's limit (limits.connectionsPerProcess)`);
    let leftHandlers = 0;
    for (const { options, handlers } of this.left) if (options.peer?.uid === uid) leftHandlers += handlers.running;
    if (leftHandlers >= Math.max(maxStreams, LEFT_HANDLERS_MIN))
      return tooMany(`${leftHandlers} handlers of user ${uid}'s closed connections still run, the limit (maxStreams)`);
    return undefined;
  }

  private *peers(): Iterable<Peer> {
    for (const { options } of this.connections) yield options.peer;
    for (const { peer } of this.handshakes.values()) yield peer;
    yield* this.elsewhere();
  }

  private makeRoom(peer: Peer): ConnectError | undefined {
    const { maxConnections, handshakes } = this.limits;
    const taken = this.connections.size + this.elsewhere().length;
    while (this.handshakes.size >= handshakes || taken + this.handshakes.size >= maxConnections) {
      const victim = this.victimFor(peer);
      if (victim === undefined)
        return taken + this.handshakes.size >= maxConnections
          ? tooMany(`the server has ${maxConnections} connections, its limit (maxConnections)`)
          : tooMany(`${handshakes} clients are in the handshake, the server's limit (limits.handshakes)`);
      this.handshakes.delete(victim.abort);
      victim.abort.abort(tooMany("the server needed the place: too many clients are in the handshake"));
    }
    return undefined;
  }

  /** The handshake that ends for a client (PLACE-1). */
  private victimFor(peer: Peer): Handshake | undefined {
    const byProcess = new Map<number | undefined, Handshake[]>();
    for (const handshake of this.handshakes.values()) {
      const list = byProcess.get(handshake.peer?.pid);
      if (list === undefined) byProcess.set(handshake.peer?.pid, [handshake]);
      else list.push(handshake);
    }
    let most: Handshake[] = [];
    for (const list of byProcess.values()) if (list.length > most.length) most = list;
    const own = byProcess.get(peer?.pid)?.length ?? 0;
    if (most.length > own + 1) return most[0];
    const quietSince = nowMs() - UNDISTURBED_MS;
    return most.find(({ isUndecided, since }) => !isUndecided && since < quietSince);
  }
}

/** Of a user other than the server's own. */
const CONNECTIONS_PER_PROCESS = 128;

function tooMany(text: string): ConnectError {
  return new ConnectError(text, Code.ResourceExhausted);
}
