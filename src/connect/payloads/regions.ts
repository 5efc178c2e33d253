/** `region`: memory of its own for a payload. */
import { Code, ConnectError } from "@connectrpc/connect";
import { lackOfProcess } from "../../carrier/handshake/lack.js";
import { NoMemoryError, Region } from "../../memory/payload/region.js";
import { commitBudget } from "../../memory/shared/segment.js";
import { isSystemError, loadAddon } from "../../os/addon.js";
import { PAYLOAD_BYTES_MAX } from "../../wire/frame.js";

/**
 * Memory of its own to build a payload in: for one that is larger than an arena, or that several peers get. Put it, or
 * parts of it (`subarray`), into any `bytes` field; a part of at least 32 KiB is not copied on its way through shared
 * memory, it is handed over.
 *
 * The content is zeros. Fill it first, then send it: the first call that hands over any part of it *seals* all of it.
 * From then on what was sent never changes, here or there: a later store in it is this process's own copy of that page,
 * seen by nobody, and not sent by later calls either. (Parts below 32 KiB, and calls over carriers without shared
 * memory, are copied and seal nothing.) It is not used up by sending: send it again, to any number of peers. A receiver
 * may write to what it gets; that is its own copy, too.
 *
 * All memory is taken at once, in steps so that the event loop goes on turning (about 0.2 ms per MiB), and counts in
 * what this process may have of shared memory (half of its cgroup's limit). It is given back when the bytes are
 * garbage, or by `release(bytes)`, and no message with it is waiting to be sent. A receiver that still has it keeps the
 * memory alive, on this process's account. The bytes must not be posted to another thread.
 *
 * Where this process has no shared memory, it is ordinary memory, which is copied when it is sent.
 *
 * @param byteLength 0 to 2 GiB − 64 KiB
 * @throws ConnectError `InvalidArgument` if `byteLength` is no size; `ResourceExhausted` that names the limit if it is
 * too large, if there is not as much memory, or if descriptors or mappings are used up
 */
export async function region(byteLength: number): Promise<Uint8Array> {
  if (!Number.isInteger(byteLength) || byteLength < 0)
    throw new ConnectError(`a region of ${byteLength} bytes: expected a whole number of bytes`, Code.InvalidArgument);
  if (byteLength > PAYLOAD_BYTES_MAX) {
    throw new ConnectError(
      `a region of ${byteLength} bytes is larger than the limit of ${PAYLOAD_BYTES_MAX} bytes (2 GiB − 64 KiB)`,
      Code.ResourceExhausted,
    );
  }
  const { addon } = loadAddon();
  if (byteLength === 0 || addon === undefined || lackOfProcess() !== undefined) return new Uint8Array(byteLength);
  try {
    return await Region.create(addon, commitBudget(), byteLength);
  } catch (error) {
    if (!isSystemError(error) && !(error instanceof NoMemoryError)) throw error;
    throw new ConnectError(
      `no region of ${byteLength} bytes: ${error.message}`,
      Code.ResourceExhausted,
      undefined,
      undefined,
      error,
    );
  }
}
