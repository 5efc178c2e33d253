/** What users see of a client's transport: its options, and how one is made for an address or a list of them. */
import { parseAddress } from "../../carrier/address.js";
import { HttpTransport } from "../http/transport.js";
import { checkOptions } from "../options/check.js";
import { transportTable } from "../options/table.js";
import type { AddressedTransport, IsthmusTransport, IsthmusTransportOptions } from "../types/client.js";
import { FailoverTransport } from "./failover.js";
import { LocalTransport } from "./local-transport.js";

/**
 * Creates a transport for Connect's `createClient`. The connection is made by the first call; after it was lost, by the
 * next one, which waits for it as the option `waitForReady` says. Calls that were in flight on a connection that was
 * lost fail with `Unavailable`. The process stays alive only while calls are pending.
 *
 * @throws ConnectError `InvalidArgument` if the address is malformed, an option is unknown, or its value is out of
 * range; `FailedPrecondition` if `carrier` is "shm" and shared memory cannot be had on this machine, or with one of the
 * addresses
 */
export function createIsthmusTransport(options: IsthmusTransportOptions): IsthmusTransport {
  const checked = checkOptions(transportTable, options);
  const { address } = checked;
  if (!Array.isArray(address)) return addressedTransport(checked, address as string);
  // What waits, waits for all of them.
  return new FailoverTransport(
    address.map((one: string) => addressedTransport({ ...checked, waitForReady: false }, one)),
    checked,
  );
}

function addressedTransport(options: IsthmusTransportOptions, address: string): AddressedTransport {
  const parsed = parseAddress(address);
  return parsed.kind === "http" ? new HttpTransport(options, parsed) : new LocalTransport(options, parsed);
}
