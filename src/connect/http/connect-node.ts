/** `@connectrpc/connect-node`, which only HTTP needs: loaded when an address says so. */
import { Code, ConnectError } from "@connectrpc/connect";
import type * as connectNode from "@connectrpc/connect-node";

export type ConnectNode = typeof connectNode;

/**
 * What a session of HTTP/2 may hold, in megabytes: two messages of the largest size. SUBTLE: beyond Node's own 10 it
 * breaks streams off with ENHANCE_YOUR_CALM as soon as headers arrive while more than that waits to be sent, and two
 * messages of 6 MB at once are enough for that.
 */
export const SESSION_MEGABYTES = 4096;

let loading: Promise<ConnectNode> | undefined;

/**
 * @param what wants it: starts the error's text. @throws ConnectError `FailedPrecondition` that says what to install
 */
export async function loadConnectNode(what: string): Promise<ConnectNode> {
  try {
    return await (loading ??= import("@connectrpc/connect-node"));
  } catch (error) {
    loading = undefined;
    const { code, message } = error as NodeJS.ErrnoException;
    const advice =
      code === "ERR_MODULE_NOT_FOUND"
        ? "HTTP needs the package @connectrpc/connect-node: npm install @connectrpc/connect-node"
        : `@connectrpc/connect-node cannot be loaded: ${message}`;
    throw new ConnectError(`${what}: ${advice}`, Code.FailedPrecondition, undefined, undefined, error);
  }
}
