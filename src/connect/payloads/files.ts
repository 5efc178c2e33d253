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

// Numbers and not handles: a handle cannot be let go of without closing it.
const openFile = promisify(open);
const closeFile = promisify(close);
const statFile = promisify(fstat);
const readFile = promisify(read);

/** Opening a pipe would wait for its other end. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** How often, and how long apart, opening is tried while there are no descriptors to be had. */
const OPEN_TRIES_MAX = 50;
const OPEN_AGAIN_MS = 20;

export interface MapFileOptions {
  /** Where in the file to start, in bytes; 0 by default. */
  readonly offset?: number;
  /** How many bytes; by default up to the end of the file. */
  readonly length?: number;
}

/**
 * A file, or a part of one, as bytes that can be put into any `bytes` field.
 *
 * The array is a private mapping: it takes no memory before it is looked at, and what is written to it changes neither
 * the file nor what is sent. *Sending reads the file itself*, as it is then, straight into shared memory, or by the
 * kernel to the socket. If it has become shorter meanwhile, the call fails with `DataLoss`. Looking at the array beyond
 * the end of a file that was truncated ends the process with SIGBUS, as with any mapping: map files only that nobody
 * truncates, or send them without looking. Where there is no addon, and in a runtime that allows no mappings as
 * ArrayBuffers (Electron), the bytes are read to the heap at once.
 *
 * The file is kept open until the array is garbage, or `release` is called.
 *
 * @throws ConnectError `NotFound`, `PermissionDenied`; `InvalidArgument` if it is no regular file, or the range is not
 * in it; `ResourceExhausted` if it is longer than 2 GiB − 64 KiB; each names the path
 */
export async function mapFile(path: string, options?: MapFileOptions): Promise<Uint8Array> {
  const range = checkOptional(mapFileTable, options, `map ${path}: `);
  const fail = (text: string, code: Code, cause?: unknown) =>
    new ConnectError(`map ${path}: ${text}`, code, undefined, undefined, cause);
  const descriptor = await openToRead(path).catch((error: NodeJS.ErrnoException) => {
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
    // Closed as it was opened: Node keeps account of a worker's.
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

/** Undefined where there is no addon, or the runtime lets no ArrayBuffer be made over a mapping. */
function mapPrivate(descriptor: number, offset: number, length: number): ArrayBuffer | undefined {
  try {
    return loadAddon().addon?.mapPrivate(descriptor, offset, length);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ERR_NO_EXTERNAL_BUFFERS") return undefined;
    throw error;
  }
}

/**
 * Mappings that nobody refers to any more hold descriptors: when there are many, or no more to be had, garbage is
 * collected.
 */
async function openToRead(path: string): Promise<number> {
  if (tooManyFiles()) await collectFiles();
  for (let tries = 1; ; tries++) {
    try {
      return await openFile(path, OPEN_FLAGS);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if ((code !== "EMFILE" && code !== "ENFILE") || tries === OPEN_TRIES_MAX) throw error;
      // Garbage is collected now and then only.
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
