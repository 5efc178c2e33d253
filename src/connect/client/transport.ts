/** How a transport is made for an address, or for a list of them. */
import { parseAddress } from "../../carrier/address.js";
import { HttpTransport } from "../http/transport.js";
import { checkOptions } from "../options/check.js";
import { transportTable } from "../options/table.js";
import type { AddressedTransport, IsthmusTransport, IsthmusTransportOptions } from "../types/client.js";
import { FailoverTransport } from "./failover.js";
import { LocalTransport } from "./local-transport.js";

/**
 * Creates a transport for `createClient`, of this package or of Connect.
 *
 * The first call makes the connection. If it is lost, the next call makes a new one and waits for it as the option
 * `waitForReady` says. Calls that were in flight on the lost connection fail with `Unavailable`. The process stays
 * alive only while calls are pending.
 *
 * @throws ConnectError `InvalidArgument` if the address is malformed, an option is unknown, or its value is out of
 * range; `FailedPrecondition` if `carrier` is "shm" and shared memory is not available on this machine or with one of
 * the addresses
 * @example
 * ```ts
 * const transport = createIsthmusTransport({ address: "/run/echo.sock" });
 * const client = createClient(EchoService, transport);
 * const { text } = await client.echo({ text: "hi" });
 * await transport.close();
 * ```
 */
export function createIsthmusTransport(options: IsthmusTransportOptions): IsthmusTransport {
  const checked = checkOptions(transportTable, options);
  const { address } = checked;
  if (!Array.isArray(address)) return addressedTransport(checked, address as string);
  // A member does not wait for its own address: waiting calls wait for all of them.
  return new FailoverTransport(
    address.map((one: string) => addressedTransport({ ...checked, waitForReady: false }, one)),
    checked,
  );
}

function addressedTransport(options: IsthmusTransportOptions, address: string): AddressedTransport {
  const parsed = parseAddress(address);
  return parsed.kind === "http" ? new HttpTransport(options, parsed) : new LocalTransport(options, parsed);
}
