/** Addresses as users write them: a path, `unix:PATH`, `tcp:HOST:PORT`, or a URL of HTTP. */
import { isAbsolute, relative } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";

/** Longest path that the kernel's `sockaddr_un` holds, without the final zero. Systems other than Linux have less room. */
export const PATH_BYTES_MAX = process.platform === "linux" ? 107 : 103;

/** Node's sockets with a path are named pipes there, which have no files, modes or owners. */
const HAS_SOCKET_PATHS = process.platform !== "win32";

/** The path is absolute, so that it means the same file after `process.chdir`. */
export type Address =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** The address of a server of HTTP, instead of our own frames. */
export interface HttpAddress {
  readonly kind: "http";
  readonly secure: boolean;
  /** Without brackets. */
  readonly host: string;
  readonly port: number;
  /** A prefix of every method's path: empty, or a path such as `/api`. */
  readonly prefix: string;
}

const EXPECTED = "expected a socket path, unix:PATH, tcp:HOST:PORT, http://HOST:PORT or https://HOST:PORT";

const ABSTRACT =
  "this names an abstract socket, which any user of the machine could take, since it has no permissions; use a path, such as unix:/run/app.sock";

/** An IP address with a port. It is not meant as a path: listening would create a file of that name. */
const BARE_PORT = /^(?:\d+\.\d+\.\d+\.\d+|\[[\da-f:.]+\]):\d+$/i;

/** @throws ConnectError `InvalidArgument` that says what an address looks like */
export function parseAddress(address: string): Address | HttpAddress {
  if (typeof address !== "string") throw notText(address);
  const invalid = (problem: string) =>
    new ConnectError(`address ${JSON.stringify(address)}: ${problem}`, Code.InvalidArgument);
  if (address === "") throw invalid(EXPECTED);
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(address)?.[1].toLowerCase();
  if (scheme === "http" || scheme === "https") return parseUrl(address, invalid);
  if (scheme === "tcp") {
    const parts = /^tcp:(?:\/\/)?(?:\[([^\]]+)\]|([^:[\]/]+)):(\d{1,5})$/i.exec(address);
    if (parts === null || Number(parts[3]) > 65535)
      throw invalid("expected tcp:HOST:PORT, for example tcp:127.0.0.1:7000 or tcp:[::1]:7000");
    return { kind: "tcp", host: parts[1] ?? parts[2], port: Number(parts[3]) };
  }
  if (scheme === "unix-abstract") throw invalid(ABSTRACT);
  if (scheme !== undefined && scheme !== "unix") throw invalid(`unknown scheme "${scheme}"; ${EXPECTED}`);
  if (scheme === undefined && BARE_PORT.test(address))
    throw invalid(
      `a host and port need a scheme: tcp:${address} or http://${address}; a socket path of that name is unix:${address}`,
    );
  if (!HAS_SOCKET_PATHS)
    throw invalid(
      "on Windows there are no Unix sockets; use TCP on the loopback interface, such as tcp:127.0.0.1:7000",
    );
  const path = scheme === "unix" ? address.slice("unix:".length).replace(/^\/\/(?=\/)/, "") : address;
  if (path === "") throw invalid("the path is empty");
  if (/^[@\0]/.test(path))
    throw invalid(path[0] === "@" ? `${ABSTRACT}; for a file of this name write unix:./${path}` : ABSTRACT);
  if (path.includes("\0")) throw invalid("the path contains a zero byte");
  const byteLength = Buffer.byteLength(path);
  if (byteLength > PATH_BYTES_MAX) {
    throw invalid(
      `the path has ${byteLength} bytes, but Unix sockets allow ${PATH_BYTES_MAX}; use a shorter directory or a relative path`,
    );
  }
  return { kind: "unix", path: isAbsolute(path) ? path : fromHere(path, invalid) };
}

/**
 * Makes a relative path absolute. SUBTLE: `..` stays, because only the system knows what it means behind a symbolic
 * link.
 */
function fromHere(path: string, invalid: (problem: string) => ConnectError): string {
  let here;
  try {
    here = process.cwd();
  } catch (error) {
    throw invalid(`the path is relative, and there is no working directory: ${(error as Error).message}`);
  }
  return `${here === "/" ? "" : here}/${path.replace(/^(?:\.\/+)+/, "")}`;
}

/**
 * Returns a socket's path in a form short enough for system calls, relative to the working directory if need be.
 * @throws ConnectError `InvalidArgument` if there is no such form
 */
export function reachable(path: string): string {
  if (Buffer.byteLength(path) <= PATH_BYTES_MAX) return path;
  const shorter = relative(process.cwd(), path);
  if (Buffer.byteLength(shorter) <= PATH_BYTES_MAX) return shorter;
  throw new ConnectError(
    `the path has ${Buffer.byteLength(path)} bytes, also from the working directory more than the ${PATH_BYTES_MAX} that Unix sockets allow; use a shorter directory`,
    Code.InvalidArgument,
  );
}

/** The error for an address that is not a string. Never throws. */
function notText(value: unknown): ConnectError {
  const invalid = (name: string, hint: string) =>
    new ConnectError(`address ${name}: ${EXPECTED}${hint}`, Code.InvalidArgument);
  if (typeof value === "number")
    return invalid(
      String(value),
      `, as a string${Number.isInteger(value) && value > 0 && value < 65536 ? `: for this port of this machine "tcp:127.0.0.1:${value}"` : ""}`,
    );
  if (typeof value !== "object" || value === null)
    return invalid(
      typeof value === "function" ? "a function" : typeof value === "bigint" ? `${value}n` : String(value),
      ", as a string",
    );
  const { href } = value as { href?: unknown };
  if (typeof href !== "string") return invalid(Array.isArray(value) ? "an array" : "an object", ", as a string");
  return invalid(
    "a URL object",
    `, as a string: ${href.startsWith("file:") ? `fileURLToPath(new URL(${JSON.stringify(href)}))` : JSON.stringify(href)}`,
  );
}

function parseUrl(address: string, invalid: (problem: string) => ConnectError): HttpAddress {
  const EXAMPLES = "for example http://127.0.0.1:8080, https://api.example.com or http://[::1]:8080";
  let url;
  try {
    url = new URL(address);
  } catch {
    throw invalid(`this is not a URL; ${EXAMPLES}`);
  }
  // The URL parser would take http:host:80 too.
  if (!/^https?:\/\//i.test(address)) throw invalid(`two slashes are missing; ${EXAMPLES}`);
  if (url.username !== "" || url.password !== "")
    throw invalid("a user name or password is not supported; send credentials in a header, with an interceptor");
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

/** Formats an address so that `parseAddress` accepts it. */
export function formatAddress(address: Address | HttpAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  const authority = `${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
  return address.kind === "tcp"
    ? `tcp:${authority}`
    : `${address.secure ? "https" : "http"}://${authority}${address.prefix}`;
}

/** The name of an address in errors: a path, `tcp:HOST:PORT`, or a URL. */
export function nameOf(address: Address | HttpAddress): string {
  return address.kind === "unix" ? address.path : formatAddress(address);
}
