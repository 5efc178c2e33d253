/** Requests of streams as tests give them, and answers as they take them. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Item, ItemSchema } from "../proto/streams_pb.js";

export type ItemInit = MessageInitShape<typeof ItemSchema>;

/** What became of an iterable of requests. */
export interface Requests extends AsyncIterable<ItemInit> {
  /** How many were taken. */
  readonly produced: number;
  /** Whether `finally` ran. */
  readonly closed: boolean;
}

/**
 * Between two messages of a stream that goes on until it is ended. Some megabytes a second in all: HTTP/2 gives streams
 * their turns only while the processes keep up.
 */
export const STREAM_PAUSE_MS = 25;

/** Items numbered from 0 on, made one by one when they are asked for. */
export function items(
  count: number,
  make: (number: number) => ItemInit | Promise<ItemInit> = (number) => ({ number: BigInt(number) }),
): Requests {
  const state = { produced: 0, closed: false };
  const generator = (async function* () {
    try {
      for (let i = 0; i < count; i++) {
        const item = await make(i);
        state.produced++;
        yield item;
      }
    } finally {
      state.closed = true;
    }
  })();
  return {
    [Symbol.asyncIterator]: () => generator,
    get produced() {
      return state.produced;
    },
    get closed() {
      return state.closed;
    },
  };
}

/** Requests that a test gives one by one. */
export class PushedRequests implements AsyncIterable<ItemInit> {
  closed = false;
  private readonly queue: (ItemInit | undefined)[] = [];
  private failure: { error: unknown } | undefined;
  private wake: (() => void) | undefined;
  private readonly generator = this.generate();

  push(...items: ItemInit[]): void {
    this.queue.push(...items);
    this.wake?.();
  }

  end(): void {
    this.queue.push(undefined);
    this.wake?.();
  }

  fail(error: unknown): void {
    this.failure = { error };
    this.wake?.();
  }

  [Symbol.asyncIterator](): AsyncIterator<ItemInit> {
    return this.generator;
  }

  private async *generate(): AsyncGenerator<ItemInit> {
    try {
      for (;;) {
        while (this.queue.length > 0) {
          const item = this.queue.shift();
          if (item === undefined) return;
          yield item;
        }
        if (this.failure !== undefined) throw this.failure.error;
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    } finally {
      this.closed = true;
    }
  }
}

export async function all<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const taken: T[] = [];
  for await (const message of messages) taken.push(message);
  return taken;
}

export function numbersOf(messages: readonly Item[]): number[] {
  return messages.map(({ number }) => Number(number));
}

/** 0, 1, …, count − 1. */
export function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

export interface Outcome<T> {
  readonly messages: T[];
  readonly error: unknown;
}

/** All messages up to the end or the failure. */
export async function outcomeOf<T>(messages: AsyncIterable<T>): Promise<Outcome<T>> {
  const taken: T[] = [];
  try {
    for await (const message of messages) taken.push(message);
    return { messages: taken, error: undefined };
  } catch (error) {
    return { messages: taken, error };
  }
}
