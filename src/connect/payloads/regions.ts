/** `region`: memory of its own for a payload. */
import { Code, ConnectError } from "@connectrpc/connect";
import { lackOfProcess } from "../../carrier/handshake/lack.js";
import { NoMemoryError, Region } from "../../memory/payload/region.js";
import { commitBudget } from "../../memory/shm/segment.js";
import { isSystemError, loadAddon } from "../../os/addon.js";
import { PAYLOAD_BYTES_MAX } from "../../wire/frame.js";

/**
 * Makes memory of its own for a payload that is larger than an arena, or that several peers receive. Put it, or parts
 * of it (`subarray`), into any `bytes` field. Over shared memory, parts of at least 32 KiB are handed over instead of
 * copied.
 *
 * The content is zeros. Fill the region first, then send it: the first call that hands over a part *seals* the whole
 * region. From then on what was sent never changes, at either end. A later store goes to this process's own copy of the
 * page, which nobody else sees and later calls do not send. Smaller parts, and calls without shared memory, are copied
 * and seal nothing. A region can be sent any number of times, to any number of peers. A receiver may write to the bytes
 * too, in a copy of its own.
 *
 * All memory is committed before this resolves, in steps that let the event loop turn (about 0.2 ms per MiB). It counts
 * towards this process's limit for shared memory, half of its cgroup's limit. It is given back when the bytes are
 * garbage or given to `release`, and no message with them waits to be sent. A receiver that still has them keeps the
 * memory alive, on the account of this process. Do not post the bytes to another thread.
 *
 * If this process has no shared memory, a region is ordinary memory that is copied when it is sent.
 *
 * @param byteLength 0 to 2 GiB − 64 KiB
 * @throws ConnectError `InvalidArgument` if `byteLength` is negative or not a whole number; `ResourceExhausted`, naming
 * the limit, if it is too large, or if memory, descriptors or mappings are used up
 * @example
 * ```ts
 * const data = await region(512 << 20);
 * fill(data);
 * await Promise.all(clients.map((client) => client.upload({ data })));
 * release(data);
 * ```
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
