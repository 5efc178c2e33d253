/** Addresses as users write them: a path, `unix:PATH`, or `tcp:HOST:PORT`. */
import { Code, ConnectError } from "@connectrpc/connect";

/** What the kernel's `sockaddr_un` holds, less the final zero. */
export const PATH_BYTES_MAX = 107;

export type Address = { readonly kind: "unix"; readonly path: string } | { readonly kind: "tcp"; readonly host: string; readonly port: number };

const EXPECTED = "expected a socket path, unix:PATH or tcp:HOST:PORT";

/** @throws ConnectError `InvalidArgument` that says what an address looks like */
export function parseAddress(address: string): Address {
  const invalid = (problem: string) =>
    new ConnectError(`address ${typeof address === "string" ? JSON.stringify(address) : String(address)}: ${problem}`, Code.InvalidArgument);
  if (typeof address !== "string" || address === "") throw invalid(EXPECTED);
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(address)?.[1].toLowerCase();
  if (scheme === "http" || scheme === "https") {
    throw invalid("HTTP is not served by this version; use a transport of @connectrpc/connect-node for other hosts");
  }
  if (scheme === "tcp") {
    const parts = /^tcp:(?:\/\/)?(?:\[([^\]]+)\]|([^:[\]/]+)):(\d{1,5})$/i.exec(address);
    if (parts === null || Number(parts[3]) > 65535) throw invalid("expected tcp:HOST:PORT, for example tcp:127.0.0.1:7000 or tcp:[::1]:7000");
    return { kind: "tcp", host: parts[1] ?? parts[2], port: Number(parts[3]) };
  }
  if (scheme !== undefined && scheme !== "unix") throw invalid(`unknown scheme "${scheme}"; ${EXPECTED}`);
  const path = scheme === "unix" ? address.slice("unix:".length).replace(/^\/\/(?=\/)/, "") : address;
  if (path === "") throw invalid("the path is empty");
  if (path.includes("\0")) throw invalid("the path contains a zero byte");
  const byteLength = Buffer.byteLength(path);
  if (byteLength > PATH_BYTES_MAX) {
    throw invalid(`the path has ${byteLength} bytes, but Unix sockets allow ${PATH_BYTES_MAX}; use a shorter directory or a relative path`);
  }
  return { kind: "unix", path };
}

/** The address as `parseAddress` takes it. */
export function formatAddress(address: Address): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  return `tcp:${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
}

/** As errors name it: a path, or `tcp:HOST:PORT`. */
export function nameOf(address: Address): string {
  return address.kind === "unix" ? address.path : formatAddress(address);
}
