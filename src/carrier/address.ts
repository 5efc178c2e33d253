/** Addresses as users write them: a path, `unix:PATH`, `tcp:HOST:PORT`, or a URL of HTTP. */
import { Code, ConnectError } from "@connectrpc/connect";

/** What the kernel's `sockaddr_un` holds, less the final zero. */
export const PATH_BYTES_MAX = 107;

export type Address = { readonly kind: "unix"; readonly path: string } | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** Where HTTP is spoken instead of our own frames. */
export interface HttpAddress {
  readonly kind: "http";
  readonly secure: boolean;
  /** Without brackets. */
  readonly host: string;
  readonly port: number;
  /** What stands before every method's path: nothing, or a path such as `/api`. */
  readonly prefix: string;
}

const EXPECTED = "expected a socket path, unix:PATH, tcp:HOST:PORT, http://HOST:PORT or https://HOST:PORT";

/** An IP address with a port, which nobody means for a path: listening would make a file of that name. */
const BARE_PORT = /^(?:\d+\.\d+\.\d+\.\d+|\[[\da-f:.]+\]):\d+$/i;

/** @throws ConnectError `InvalidArgument` that says what an address looks like */
export function parseAddress(address: string): Address | HttpAddress {
  const invalid = (problem: string) =>
    new ConnectError(`address ${typeof address === "string" ? JSON.stringify(address) : String(address)}: ${problem}`, Code.InvalidArgument);
  if (typeof address !== "string" || address === "") throw invalid(EXPECTED);
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(address)?.[1].toLowerCase();
  if (scheme === "http" || scheme === "https") return parseUrl(address, invalid);
  if (scheme === "tcp") {
    const parts = /^tcp:(?:\/\/)?(?:\[([^\]]+)\]|([^:[\]/]+)):(\d{1,5})$/i.exec(address);
    if (parts === null || Number(parts[3]) > 65535) throw invalid("expected tcp:HOST:PORT, for example tcp:127.0.0.1:7000 or tcp:[::1]:7000");
    return { kind: "tcp", host: parts[1] ?? parts[2], port: Number(parts[3]) };
  }
  if (scheme !== undefined && scheme !== "unix") throw invalid(`unknown scheme "${scheme}"; ${EXPECTED}`);
  if (scheme === undefined && BARE_PORT.test(address)) throw invalid(`a host and port need a scheme: tcp:${address} or http://${address}; a socket path of that name is unix:${address}`);
  const path = scheme === "unix" ? address.slice("unix:".length).replace(/^\/\/(?=\/)/, "") : address;
  if (path === "") throw invalid("the path is empty");
  if (path.includes("\0")) throw invalid("the path contains a zero byte");
  const byteLength = Buffer.byteLength(path);
  if (byteLength > PATH_BYTES_MAX) {
    throw invalid(`the path has ${byteLength} bytes, but Unix sockets allow ${PATH_BYTES_MAX}; use a shorter directory or a relative path`);
  }
  return { kind: "unix", path };
}

function parseUrl(address: string, invalid: (problem: string) => ConnectError): HttpAddress {
  const EXAMPLES = "for example http://127.0.0.1:8080, https://api.example.com or http://[::1]:8080";
  let url;
  try {
    url = new URL(address);
  } catch {
    throw invalid(`this is no URL; ${EXAMPLES}`);
  }
  // The URL parser would take http:host:80 too.
  if (!/^https?:\/\//i.test(address)) throw invalid(`two slashes are missing; ${EXAMPLES}`);
  if (url.username !== "" || url.password !== "") throw invalid("a user name or password has no place here; send credentials in a header, with an interceptor");
  if (url.search !== "" || url.hash !== "") throw invalid(`only a path may follow host and port; ${EXAMPLES}`);
  const secure = url.protocol === "https:";
  return {
    kind: "http",
    secure,
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port === "" ? (secure ? 443 : 80) : Number(url.port),
    prefix: url.pathname.replace(/\/+$/, ""),
  };
}

/** The address as `parseAddress` takes it. */
export function formatAddress(address: Address | HttpAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  const authority = `${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
  return address.kind === "tcp" ? `tcp:${authority}` : `${address.secure ? "https" : "http"}://${authority}${address.prefix}`;
}

/** As errors name it: a path, `tcp:HOST:PORT`, or a URL. */
export function nameOf(address: Address | HttpAddress): string {
  return address.kind === "unix" ? address.path : formatAddress(address);
}
