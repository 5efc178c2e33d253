/**
 * A raw Unix stream socket, made as fast as plain Node allows: the baseline of the ratios.
 *
 * ```
 * | 4 bytes: length of what follows | 8 bytes: id | data … |     little endian
 * ```
 *
 * Replies come in the order of the requests; handlers that wait all wait equally long. `net-frames.ts` says where bytes are copied, and where not.
 */
import { Socket, createConnection, createServer, type OnReadOpts } from "node:net";
import type { Payload } from "../proto/bench_pb.js";
import { FrameReader, FrameWriter, type OnFrame } from "./net-frames.js";
import { messageBytesMax, type Closable, type Peer } from "./peer.js";

export const net: Peer = {
  name: "net",
  servesInClient: false,

  startServer: (path, answer) => serveFrames(path, () => answer),

  async connect(path) {
    /** Calls that wait, in the order in which they were sent. */
    const waiting = new Queue<Pending>();
    let closing: Error | null = null;
    const connection = await connectFrames(path, {
      onFrame: (id, data) => {
        const pending = waiting.shift();
        if (pending === undefined) throw new Error(`a reply to call ${id}, which nobody made`);
        pending.resolve({ $typeName: "isthmus.bench.Payload", id, data });
      },
      onEnd: (error) => {
        closing = error;
        for (let pending = waiting.shift(); pending !== undefined; pending = waiting.shift()) pending.reject(error);
      },
    });
    const { writer } = connection;
    return {
      call: (request) =>
        new Promise((resolve, reject) => {
          if (closing !== null) {
            reject(closing);
            return;
          }
          waiting.push({ resolve, reject });
          writer.send(request.id, request.data);
          if (waiting.length === 1) writer.flush();
          else connection.flushSoon();
        }),
      close: () => {
        connection.destroy();
        return Promise.resolve();
      },
    };
  },
};

/**
 * Serves frames on a Unix socket.
 *
 * @param createHandler makes the handler of a connection; null is no reply
 */
export async function serveFrames(
  path: string,
  createHandler: () => (request: Payload) => Payload | Promise<Payload> | null,
): Promise<Closable> {
  const open = new Set<Socket>();
  const server = createServer({ pauseOnConnect: true }, (accepted) => {
    const handle = createHandler();
    let writer: FrameWriter | null = null;
    const reader = new FrameReader(messageBytesMax, (id, data) => {
      const reply = handle({ $typeName: "isthmus.bench.Payload", id, data });
      if (reply instanceof Promise) void reply.then(sendLate);
      else if (reply !== null) writer!.send(reply.id, reply.data);
    });
    const socket = adopt(accepted, reader, () => writer!.flush());
    writer = new FrameWriter(socket);
    const flushSoon = flusherOf(writer);
    const sendLate = (reply: Payload): void => {
      writer.send(reply.id, reply.data);
      flushSoon();
    };
    open.add(socket);
    socket.on("error", () => socket.destroy()).on("close", () => open.delete(socket));
    socket.resume();
  });
  await new Promise<void>((resolve, reject) => server.on("error", reject).listen(path, resolve));
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of open) socket.destroy();
      }),
  };
}

export interface FrameConnection {
  readonly writer: FrameWriter;
  /** Flushes after the microtasks of this turn, so that all frames sent in them leave together. */
  flushSoon(): void;
  destroy(): void;
}

export async function connectFrames(
  path: string,
  { onFrame, onEnd }: { onFrame: OnFrame; onEnd: (error: Error) => void },
): Promise<FrameConnection> {
  const reader = new FrameReader(messageBytesMax, onFrame);
  const socket = createConnection({ path, ...readInto(reader, () => undefined) });
  await new Promise<void>((resolve, reject) => socket.once("error", reject).once("connect", resolve));
  socket.removeAllListeners("error");
  socket.on("error", onEnd).on("close", () => onEnd(new Error("the connection is closed")));
  const writer = new FrameWriter(socket);
  return { writer, flushSoon: flusherOf(writer), destroy: () => socket.destroy() };
}

function flusherOf(writer: FrameWriter): () => void {
  let flushing = false;
  const flush = (): void => {
    flushing = false;
    writer.flush();
  };
  return () => {
    if (flushing) return;
    flushing = true;
    process.nextTick(flush);
  };
}

interface Pending {
  resolve(reply: Payload): void;
  reject(error: Error): void;
}

/** Makes a socket read where `reader` says. @param onRead runs after each read. */
function readInto(reader: FrameReader, onRead: () => void): { onread: OnReadOpts } {
  return {
    onread: {
      // A function: the socket asks again after each read.
      buffer: () => reader.target(),
      callback: (byteLength, bytes) => {
        reader.received(byteLength, bytes as Buffer);
        onRead();
        return true;
      },
    },
  };
}

/**
 * Gives an accepted socket static read buffers. Node offers `onread` to connecting sockets only, so the accepted
 * socket's handle is given to a new one.
 */
function adopt(accepted: Socket, reader: FrameReader, onRead: () => void): Socket {
  const { _handle: handle } = accepted as unknown as { _handle: object };
  const options = { handle, readable: true, writable: true, pauseOnCreate: true, ...readInto(reader, onRead) };
  return new Socket(options);
}

/** First in, first out, in a ring that grows: no array is shifted. */
class Queue<T> {
  #slots: (T | undefined)[] = new Array<undefined>(128);
  #head = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(item: T): void {
    if (this.#length === this.#slots.length) this.#grow();
    this.#slots[(this.#head + this.#length++) & (this.#slots.length - 1)] = item;
  }

  shift(): T | undefined {
    if (this.#length === 0) return undefined;
    const item = this.#slots[this.#head];
    this.#slots[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#slots.length - 1);
    this.#length--;
    return item;
  }

  #grow(): void {
    const ordered = this.#slots.map((_, i) => this.#slots[(this.#head + i) & (this.#slots.length - 1)]);
    this.#slots = ordered.concat(new Array<undefined>(ordered.length));
    this.#head = 0;
  }
}
