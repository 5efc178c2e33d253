/**
 * From a connected socket to a running carrier, in an event loop: drives the machines of `protocol.ts`, and hands the
 * socket over, to be the doorbell line or to carry the frames itself. HANDSHAKE-1 holds at both ends.
 */
import type { ConnectError } from "@connectrpc/connect";
import type { PeerCredentials } from "../../os/addon.js";
import { inRootContext } from "../poll/root-context.js";
import { ControlSocket } from "../shm/control-socket.js";
import { ShmCarrier } from "../shm/shm.js";
import { SocketCarrier } from "../socket/socket.js";
import { StreamSocket } from "../socket/stream-socket.js";
import { HandshakeEnd, handshakeError } from "./end.js";
import type { Link, LinkOptions } from "./link.js";
import type { Agreement, Handshake } from "./protocol.js";
import { clientEnd, refusalFor, serverEnd } from "./protocol.js";

/** A connected socket during the handshake. Only one that the addon holds brings descriptors. */
export type HandshakeSocket = ControlSocket | StreamSocket;

/** The client's end. Takes `socket` over, also when it throws. @throws ConnectError */
export async function clientHandshake(
  socket: HandshakeSocket,
  options: LinkOptions,
  signal: AbortSignal,
): Promise<Link> {
  let end: HandshakeEnd | undefined;
  try {
    const peer = socket instanceof ControlSocket ? socket.addon.peerCredentials(socket.descriptor) : undefined;
    end = new HandshakeEnd("client", socket, options, peer);
    const agreement = await drive(clientEnd(end, options, true), socket, end, signal);
    return linkOn(agreement, socket, end, options);
  } catch (error) {
    end?.close();
    socket.close();
    throw handshakeError(error, "client");
  }
}

/**
 * The server's end. Takes `socket` over, also when it throws.
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
  const end = new HandshakeEnd("server", socket, options, peer);
  try {
    if (refusal !== undefined) throw refusal;
    const agreement = await drive(serverEnd(end, options), socket, end, signal);
    return linkOn(agreement, socket, end, options);
  } catch (error) {
    const refused = handshakeError(error, "server");
    end.close();
    socket.refuse(refusalFor(refused));
    throw refused;
  }
}

async function drive(
  handshake: Handshake,
  socket: HandshakeSocket,
  end: HandshakeEnd,
  signal: AbortSignal,
): Promise<Agreement> {
  let step = handshake.next();
  while (step.done !== true) step = handshake.next(await socket.receive(end.received, signal));
  return step.value;
}

function linkOn(agreement: Agreement, socket: HandshakeSocket, end: HandshakeEnd, options: LinkOptions): Link {
  const { reason, spans, maxStreams, windows } = agreement;
  const { peer } = end;
  if (reason !== undefined) return { carrier: new SocketCarrier(streamOf(socket), reason), peer, maxStreams, windows };
  const line = socket as ControlSocket;
  const carrier = new ShmCarrier({ ...end.joined, line, pollMicros: options.pollMicros, spans });
  line.handOver(carrier);
  return { carrier, peer, maxStreams, windows };
}

/** Frames come on the socket itself. @throws Error if Node rejects the descriptor */
function streamOf(socket: HandshakeSocket): StreamSocket {
  if (!(socket instanceof ControlSocket)) return socket;
  const { addon } = socket;
  const descriptor = socket.release();
  // Node would let the kernel close them within a read, which can take as long as their sender likes.
  addon.refuseDescriptors(descriptor, true);
  try {
    return inRootContext(() => StreamSocket.fromDescriptor(addon, descriptor));
  } catch (error) {
    addon.closeDescriptor(descriptor);
    throw error;
  }
}
