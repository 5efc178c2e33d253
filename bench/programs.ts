/** The programs of each peer. Those of native peers are built when the first of them is asked for. */
import { PeerSkipped, nodeProgram, type Program } from "./child-process.js";
import { buildNative, NativeUnavailable } from "./native/build.js";
import { isNative, type PeerName } from "./peers/peer.js";

const nodeRoles = {
  server: "server",
  client: "client",
  gateway: "services/gateway",
  "lines-server": "services/lines-server",
  "lines-client": "services/lines-client",
} as const;
export type PeerRole = keyof typeof nodeRoles;

/** Rejects with {@link PeerSkipped} if the peer cannot be built here. */
export async function programOf(peer: PeerName, role: PeerRole, args: readonly string[]): Promise<Program> {
  if (!isNative(peer)) return nodeProgram(nodeRoles[role], [peer, ...args]);
  try {
    const file = await buildNative(peer);
    return { name: `${peer}'s ${role}`, command: [file, role, peer, ...args], channel: "lines" };
  } catch (error) {
    if (error instanceof NativeUnavailable) throw new PeerSkipped(error.message);
    throw error;
  }
}
