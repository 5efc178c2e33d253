/** `mapFile`: files as payloads. */
import { close, closeSync, constants, fstat, open, read } from "node:fs";
import { promisify } from "node:util";
import { Code, ConnectError } from "@connectrpc/connect";
import { collectFiles, MappedFile, tooManyFiles } from "../../memory/payload/mapped-file.js";
import { keepNewInThread } from "../../memory/v8/array-buffer-transfer.js";
import { loadAddon } from "../../os/addon.js";
import { sleep } from "../../os/timers.js";
import { PAYLOAD_BYTES_MAX } from "../../wire/frame.js";
import { checkOptional } from "../options/check.js";
import { mapFileTable } from "../options/table.js";
import type { MapFileOptions } from "../types/payloads.js";

// Descriptors instead of FileHandles: a FileHandle cannot be given up without closing its descriptor.
const openFile = promisify(open);
const closeFile = promisify(close);
const statFile = promisify(fstat);
const readFile = promisify(read);

/** O_NONBLOCK: opening a pipe would otherwise wait for its other end. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** Most attempts to open a file while no descriptors are free, and the pause between them. */
const OPEN_TRIES_MAX = 50;
const OPEN_AGAIN_MS = 20;

/**
 * Maps a file, or a part of one, as bytes for any `bytes` field.
 *
 * The array is a private mapping: it takes no memory until it is read, and writing to it changes neither the file nor
 * what is sent. *Sending reads the file itself* at that time, straight into shared memory, or by the kernel to the
 * socket. If the file has become shorter by then, the call fails with `DataLoss`.
 *
 * Reading the array beyond the end of a truncated file ends the process with SIGBUS, as with any mapping. Map only
 * files that nobody truncates, or send them without reading the array. Without the addon, and in runtimes that cannot
 * map memory as ArrayBuffers (Electron), the bytes are read to the heap at once.
 *
 * The file stays open until the array is garbage or is given to `release`.
 *
 * @param path the file's path; every error names it
 * @throws ConnectError `NotFound`; `PermissionDenied`; `InvalidArgument` if it is not a regular file, or the range is
 * not in the file; `ResourceExhausted` if it is longer than 2 GiB − 64 KiB, or no descriptor is free
 * @example
 * ```ts
 * const data = await mapFile("/srv/video.mp4", { offset: 0, length: 1 << 20 });
 * await client.upload({ data });
 * release(data);
 * ```
 */
export async function mapFile(path: string, options?: MapFileOptions): Promise<Uint8Array> {
  const range = checkOptional(mapFileTable, options, `map ${path}: `);
  const fail = (text: string, code: Code, cause?: unknown) =>
    new ConnectError(`map ${path}: ${text}`, code, undefined, undefined, cause);
  const descriptor = await openToRead(path).catch((thrown: unknown) => {
    const error = thrown as NodeJS.ErrnoException;
    const code = {
      ENOENT: Code.NotFound,
      ENOTDIR: Code.NotFound,
      EACCES: Code.PermissionDenied,
      EPERM: Code.PermissionDenied,
      EMFILE: Code.ResourceExhausted,
      ENFILE: Code.ResourceExhausted,
    }[error.code ?? ""];
    throw fail(error.message, code ?? Code.Unavailable, error);
  });
  let mapped = false;
  try {
    const found = await statFile(descriptor);
    if (!found.isFile()) throw fail("this is not a regular file", Code.InvalidArgument);
    const { offset = 0, length = Math.max(found.size - offset, 0) } = range;
    if (offset + length > found.size)
      throw fail(
        `bytes ${offset} to ${offset + length} are not in this file of ${found.size} bytes`,
        Code.InvalidArgument,
      );
    if (length > PAYLOAD_BYTES_MAX)
      throw fail(
        `${length} bytes are more than the limit of ${PAYLOAD_BYTES_MAX} (2 GiB − 64 KiB); map parts of it`,
        Code.ResourceExhausted,
      );
    if (length === 0) return new Uint8Array(0);
    const mapping = mapPrivate(descriptor, offset, length);
    if (mapping === undefined) return await readAll(descriptor, offset, length, fail);
    // Closed the way it was opened: Node keeps track of a worker's descriptors.
    const bytes = MappedFile.of(keepNewInThread(mapping), path, offset, descriptor, closeSync);
    mapped = true;
    return bytes;
  } catch (error) {
    throw error instanceof ConnectError
      ? error
      : fail(error instanceof Error ? error.message : String(error), Code.Unavailable, error);
  } finally {
    if (!mapped) await closeFile(descriptor);
  }
}

/** A private mapping; undefined without the addon, and if the runtime cannot make an ArrayBuffer over a mapping. */
function mapPrivate(descriptor: number, offset: number, length: number): ArrayBuffer | undefined {
  try {
    return loadAddon().addon?.mapPrivate(descriptor, offset, length);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ERR_NO_EXTERNAL_BUFFERS") return undefined;
    throw error;
  }
}

/**
 * Opens a file for reading. Mappings that are garbage still hold descriptors: if there are many mappings, or no free
 * descriptors, garbage is collected first.
 */
async function openToRead(path: string): Promise<number> {
  if (tooManyFiles()) await collectFiles();
  for (let tries = 1; ; tries++) {
    try {
      return await openFile(path, OPEN_FLAGS);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if ((code !== "EMFILE" && code !== "ENFILE") || tries === OPEN_TRIES_MAX) throw error;
      // Garbage is collected only now and then.
      if (!(await collectFiles())) await sleep(OPEN_AGAIN_MS);
    }
  }
}

async function readAll(
  descriptor: number,
  offset: number,
  length: number,
  fail: (text: string, code: Code) => ConnectError,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const { bytesRead } = await readFile(descriptor, bytes, at, length - at, offset + at);
    if (bytesRead === 0) throw fail(`the file has become shorter than ${offset + length} bytes`, Code.DataLoss);
    at += bytesRead;
  }
  return bytes;
}
