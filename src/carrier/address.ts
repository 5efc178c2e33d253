/** Addresses as users write them: a path, or `unix:PATH`. */
import { Code, ConnectError } from "@connectrpc/connect";

/** What the kernel's `sockaddr_un` holds, less the final zero. */
const PATH_BYTES_MAX = 107;

/** @returns the socket path. @throws ConnectError `InvalidArgument` that says what an address looks like */
export function parseAddress(address: string): string {
  const invalid = (problem: string) =>
    new ConnectError(`address ${typeof address === "string" ? JSON.stringify(address) : String(address)}: ${problem}`, Code.InvalidArgument);
  if (typeof address !== "string" || address === "") throw invalid("expected a socket path or unix:PATH");
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(address)?.[1].toLowerCase();
  if (scheme === "http" || scheme === "https") {
    throw invalid("HTTP is not served by this version; use a transport of @connectrpc/connect-node for other hosts");
  }
  if (scheme === "tcp") throw invalid("TCP is not served by this version; use unix:PATH");
  if (scheme !== undefined && scheme !== "unix") throw invalid(`unknown scheme "${scheme}"; expected a socket path or unix:PATH`);
  const path = scheme === "unix" ? address.slice("unix:".length).replace(/^\/\/(?=\/)/, "") : address;
  if (path === "") throw invalid("the path is empty");
  if (path.includes("\0")) throw invalid("the path contains a zero byte");
  const byteLength = Buffer.byteLength(path);
  if (byteLength > PATH_BYTES_MAX) {
    throw invalid(`the path has ${byteLength} bytes, but Unix sockets allow ${PATH_BYTES_MAX}; use a shorter directory or a relative path`);
  }
  return path;
}
