/**
 * Opens a server's listener, with the addon if there is one and otherwise with Node's own sockets, after checking what
 * the options require.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Address, HttpAddress } from "../../carrier/address.js";
import { nameOf } from "../../carrier/address.js";
import type { Listener, ListenOptions } from "../../carrier/handshake/listen.js";
import { listen } from "../../carrier/handshake/listen.js";
import { listenPlain, listenTcp } from "../../carrier/handshake/listen-plain.js";
import type { StreamSocket } from "../../carrier/socket/stream-socket.js";
import type { Addon } from "../../os/addon.js";
import { loadAddon } from "../../os/addon.js";
import { checkCarrier, meansFor } from "../options/options.js";
import type { IsthmusServerOptions } from "../types/server.js";

/** Options of `listen` that do not apply to an address of this kind. */
const MISPLACED: Readonly<Record<(Address | HttpAddress)["kind"], readonly (keyof ListenOptions)[]>> = {
  unix: ["tls"],
  tcp: ["mode", "gid", "takeover", "tls"],
  http: ["mode", "gid", "takeover"],
};

/** @throws ConnectError `InvalidArgument` if an option does not apply to the address */
export function checkPlaced(address: Address | HttpAddress, options: ListenOptions): void {
  const misplaced = MISPLACED[address.kind].find((name) => options[name] !== undefined);
  if (misplaced === undefined) return;
  throw new ConnectError(
    `listen on ${nameOf(address)}: option ${misplaced} is for ${misplaced === "tls" ? "https:// addresses" : "socket paths"}`,
    Code.InvalidArgument,
  );
}

export interface Accepting {
  /** Takes a connection whose peer's credentials the kernel knows. The receiver owns the descriptor. */
  onDescriptor(addon: Addon, descriptor: number, refusal: ConnectError | undefined): void;
  /** Takes a connection without credentials. The receiver owns the socket. */
  onStream(stream: StreamSocket): void;
}

/** @throws ConnectError that says what is in the way */
export async function openListener(
  options: IsthmusServerOptions,
  address: Address,
  listenOptions: ListenOptions,
  accepting: Accepting,
): Promise<Listener> {
  checkCarrier(options, address);
  if (address.kind === "tcp") {
    requireNoCredentials(options, address, "TCP does not provide");
    return listenTcp(address, (stream) => accepting.onStream(stream));
  }
  const { addon } = meansFor(options, address);
  if (addon === undefined) {
    const because = `are not available without the addon (${loadAddon().reason}); leave it out: the socket's mode, 0600, keeps other users out`;
    requireNoCredentials(options, address, because);
    // Only the socket's mode keeps other users out.
    const mode = listenOptions.mode ?? 0o600;
    if ((mode & 0o077) !== 0) {
      throw new ConnectError(
        `listen on ${nameOf(address)}: mode 0${mode.toString(8)} lets other users connect, and without the addon (${loadAddon().reason}) the server cannot identify them; use mode 0600`,
        Code.FailedPrecondition,
      );
    }
    return listenPlain(address.path, listenOptions, (stream) => accepting.onStream(stream));
  }
  return listen(
    addon,
    address.path,
    listenOptions,
    (descriptor) => accepting.onDescriptor(addon, descriptor, undefined),
    (descriptor, error) => {
      accepting.onDescriptor(
        addon,
        descriptor,
        new ConnectError(`the server cannot take another connection: ${error.message}`, Code.ResourceExhausted),
      );
    },
  );
}

function requireNoCredentials({ allow }: IsthmusServerOptions, address: Address, because: string): void {
  if (allow === undefined) return;
  throw new ConnectError(
    `listen on ${nameOf(address)}: option \`allow\` needs the credentials of clients, which ${because}`,
    Code.FailedPrecondition,
  );
}
