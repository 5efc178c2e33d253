/** The first frame of an HTTP/2 server. */
import { connect } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import type { HttpTransportOptions } from "../types/http.js";

/** Waits for a server's first frame, on a separate connection because the calls' connection belongs to Connect. */
export async function greeting(
  url: string,
  options: HttpTransportOptions["nodeOptions"],
  expiry: AbortSignal,
): Promise<void> {
  const session = connect(url, options);
  const onAbort = () => session.destroy(expiry.reason as ConnectError);
  expiry.addEventListener("abort", onAbort, { once: true });
  try {
    await new Promise<void>((resolve, reject) => {
      session.once("remoteSettings", () => resolve());
      session.once("error", reject);
      session.once("close", () =>
        reject(new ConnectError("the server there closed the connection before it sent anything", Code.Unavailable)),
      );
    });
  } finally {
    expiry.removeEventListener("abort", onAbort);
    session.on("error", () => {});
    session.destroy();
  }
}
