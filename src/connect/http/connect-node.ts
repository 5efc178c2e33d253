/** Loads `@connectrpc/connect-node`, which only HTTP needs, when an HTTP address is used. */
import { Code, ConnectError } from "@connectrpc/connect";
import type * as connectNode from "@connectrpc/connect-node";

export type ConnectNode = typeof connectNode;

/**
 * How much a session of HTTP/2 may hold, in megabytes: two messages of the largest size.
 *
 * SUBTLE: above its limit, 10 by default, Node breaks streams off with ENHANCE_YOUR_CALM as soon as headers arrive
 * while more than that waits to be sent. Two messages of 6 MB at once are enough.
 */
export const SESSION_MEGABYTES = 4096;

let loading: Promise<ConnectNode> | undefined;

/**
 * @param what the operation, as the beginning of an error's text
 * @throws ConnectError `FailedPrecondition` that says what to install
 */
export async function loadConnectNode(what: string): Promise<ConnectNode> {
  try {
    return await (loading ??= import("@connectrpc/connect-node"));
  } catch (error) {
    loading = undefined;
    const { code, message } = error as NodeJS.ErrnoException;
    const advice =
      code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND"
        ? "HTTP needs the package @connectrpc/connect-node: npm install @connectrpc/connect-node"
        : `@connectrpc/connect-node cannot be loaded: ${message}`;
    throw new ConnectError(`${what}: ${advice}`, Code.FailedPrecondition, undefined, undefined, error);
  }
}
