/**
 * The sources of log lines: a file that is read once, a file that is followed as it grows, or a stream that is copied to
 * a file on its way. Each gives bytes, and a file to check the counts against. Nothing here looks at lines.
 */
import { randomBytes } from "node:crypto";
import type { FSWatcher } from "node:fs";
import { watch } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Readable } from "node:stream";
import { UsageError } from "./arguments.js";
import type { CheckTarget } from "./verify.js";

export interface LogSource {
  /** The file to check the result against. */
  readonly path: string;
  /** Bytes read so far. */
  readonly bytesRead: number;
  /** Everything up to the end, or to the position at which `stop` aborts. The reader may keep the chunks. */
  chunks(stop: AbortSignal): AsyncGenerator<Buffer, void>;
  /** What to check against, once everything is read. @throws Error if the file has changed since */
  target(): Promise<CheckTarget>;
  close(): Promise<void>;
}

const CHUNK_BYTES = 256 << 10;
/** For file systems that do not report changes, such as some network file systems. */
const POLL_MILLIS = 50;

/** @throws UsageError if there is no such file, or it cannot be read */
export async function openLog(name: string, follow: boolean): Promise<LogSource> {
  const path = resolve(name);
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, "r");
    const status = await handle.stat();
    if (status.isDirectory()) throw new UsageError(`${name} is a directory`);
    // Some of the kernel's files claim to be empty; reading a byte shows which.
    const claimsEmpty = status.isFile() && status.size === 0;
    const isStream = !status.isFile() || (claimsEmpty && (await handle.read(Buffer.alloc(1), 0, 1, 0)).bytesRead > 0);
    if (isStream) return await copyStream(handle.createReadStream());
    return new FileSource(handle, path, follow ? Infinity : status.size);
  } catch (error) {
    await handle?.close();
    if (error instanceof UsageError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const reasons: Record<string, string> = {
      ENOENT: "no such file",
      EACCES: "permission denied",
      ENOTDIR: "no such file",
    };
    throw new UsageError(`cannot read ${name}: ${reasons[code ?? ""] ?? message}`);
  }
}

/** A source that is copied to a new file in the system's temporary folder. */
export async function copyStream(stream: Readable): Promise<LogSource> {
  const path = newLogPath();
  return new CopiedStream(stream, await open(path, "ax", 0o600), path);
}

export function newLogPath(): string {
  return join(tmpdir(), `isthmus-demo-${randomBytes(4).toString("hex")}.log`);
}

class FileSource implements LogSource {
  readonly path: string;
  bytesRead = 0;
  private readonly handle: FileHandle;
  private readonly limit: number;

  /** @param limit Infinity: follow it */
  constructor(handle: FileHandle, path: string, limit: number) {
    this.handle = handle;
    this.path = path;
    this.limit = limit;
  }

  async *chunks(stop: AbortSignal): AsyncGenerator<Buffer, void> {
    const changes = this.limit === Infinity ? new Changes(this.path, stop) : undefined;
    try {
      for (;;) {
        // SUBTLE: looked at before reading, so that what was written before the stop is still read.
        const stopped = stop.aborted;
        if (stopped && changes === undefined) return;
        const wanted = Math.min(CHUNK_BYTES, this.limit - this.bytesRead);
        const chunk = Buffer.allocUnsafeSlow(wanted);
        const { bytesRead } =
          wanted === 0 ? { bytesRead: 0 } : await this.handle.read(chunk, 0, wanted, this.bytesRead);
        this.bytesRead += bytesRead;
        if (bytesRead > 0) yield chunk.subarray(0, bytesRead);
        if (bytesRead === 0 && (stopped || changes === undefined)) return;
        // A file that grows faster than it is read would never end.
        if (stopped && performance.now() > (changes?.giveUpAt ?? 0)) return;
        if (bytesRead === 0) await changes?.next();
      }
    } finally {
      changes?.close();
    }
  }

  async target(): Promise<CheckTarget> {
    const { path, bytesRead } = this;
    const mine = await this.handle.stat();
    const named = await stat(path).catch(() => undefined);
    if (named === undefined || named.ino !== mine.ino || named.dev !== mine.dev) {
      throw new Error(`${path} was replaced while it was read, so there is nothing to check against`);
    }
    if (mine.size < bytesRead)
      throw new Error(`${path} was truncated while it was read, so there is nothing to check against`);
    return mine.size === bytesRead ? { path } : { path, headBytes: bytesRead };
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}

/** Reports that a file has changed, or that it is time to look. */
class Changes {
  /** After the stop, at the latest by then. */
  giveUpAt = Infinity;
  private readonly watcher: FSWatcher | undefined;
  private readonly stop: AbortSignal;
  private changed = false;
  private notify: (() => void) | undefined;

  constructor(path: string, stop: AbortSignal) {
    this.stop = stop;
    stop.addEventListener("abort", this.onStop, { once: true });
    if (stop.aborted) this.onStop();
    try {
      this.watcher = watch(path, this.onChange).on("error", () => undefined);
    } catch {
      // No watches left; looking now and then is enough.
    }
  }

  async next(): Promise<void> {
    if (!this.changed) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, POLL_MILLIS);
        this.notify = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.notify = undefined;
    }
    this.changed = false;
  }

  close(): void {
    this.watcher?.close();
    this.stop.removeEventListener("abort", this.onStop);
  }

  private readonly onChange = () => {
    this.changed = true;
    this.notify?.();
  };

  private readonly onStop = () => {
    this.giveUpAt = performance.now() + 500;
    this.onChange();
  };
}

class CopiedStream implements LogSource {
  readonly path: string;
  bytesRead = 0;
  private readonly stream: Readable;
  private readonly copy: FileHandle;

  constructor(stream: Readable, copy: FileHandle, path: string) {
    this.stream = stream;
    this.copy = copy;
    this.path = path;
  }

  async *chunks(stop: AbortSignal): AsyncGenerator<Buffer, void> {
    const iterator = (this.stream as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
    const stopped = new Promise<undefined>((resolve) => {
      if (stop.aborted) resolve(undefined);
      else stop.addEventListener("abort", () => resolve(undefined), { once: true });
    });
    try {
      for (;;) {
        const pending = iterator.next();
        // If the stop comes first, nothing waits for this one any more.
        pending.catch(() => undefined);
        const next = await Promise.race([pending, stopped]);
        if (next === undefined || next.done === true) return;
        await this.copy.appendFile(next.value);
        this.bytesRead += next.value.length;
        yield next.value;
      }
    } finally {
      this.stream.destroy();
    }
  }

  target(): Promise<CheckTarget> {
    return Promise.resolve({ path: this.path });
  }

  async close(): Promise<void> {
    this.stream.destroy();
    await this.copy.close();
  }
}
