/** `@connectrpc/connect-node`, which only HTTP needs: loaded when an address says so. */
import { Code, ConnectError } from "@connectrpc/connect";
import type * as connectNode from "@connectrpc/connect-node";

export type ConnectNode = typeof connectNode;

let loading: Promise<ConnectNode> | undefined;

/** @param what wants it: starts the error's text. @throws ConnectError `FailedPrecondition` that says what to install */
export async function loadConnectNode(what: string): Promise<ConnectNode> {
  try {
    return await (loading ??= import("@connectrpc/connect-node"));
  } catch (error) {
    loading = undefined;
    const { code, message } = error as NodeJS.ErrnoException;
    const advice = code === "ERR_MODULE_NOT_FOUND" ? "HTTP needs the package @connectrpc/connect-node: npm install @connectrpc/connect-node" : `@connectrpc/connect-node cannot be loaded: ${message}`;
    throw new ConnectError(`${what}: ${advice}`, Code.FailedPrecondition, undefined, undefined, error);
  }
}
