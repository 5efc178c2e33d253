/**
 * The receiving end of one direction of a stream: takes the frames of messages, keeps decoded messages until they are
 * pulled, and grants the sender credit for pulled ones.
 *
 * CREDIT-2  Only pulled messages are granted again. So at most the window plus one message is kept here, even if the
 *           consumer is slow.
 * STREAM-R  A message's scope ends when the next one is pulled, before that one arrives: a sender may need the memory
 *           for it.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ReceivedFrame, SpanSource } from "../../carrier/carrier.js";
import type { MessageCodec } from "../../codec/codec.js";
import type { MessageLeases } from "../../memory/payload/message-leases.js";
import { isScoped } from "../../memory/payload/lease.js";
import { leasesOf } from "../../memory/payload/message-leases.js";
import { Violation } from "../../memory/shm/violation.js";
import { FLAG, MESSAGE_COST_BYTES } from "../../wire/frame.js";
import { noMemory, parseError, tooLarge } from "../errors.js";
import type { ReceivedParts, ReceivePolicy } from "../inbound.js";
import { Reassembler, decodeWhole } from "../inbound.js";

/** How messages are decoded, and how many are accepted. */
export interface MessageQueueOptions {
  readonly codec: MessageCodec;
  readonly receivePolicy: ReceivePolicy;
  readonly readMaxBytes: number;
  readonly windowBytes: number;
  readonly spanSource: SpanSource | undefined;
  /** There is one message in this direction, and it lives as long as the call. */
  readonly isSingle: boolean;
  /** Another frame follows the last message: the server's status. */
  readonly statusFollows: boolean;
}

type Result = IteratorResult<unknown, undefined>;
interface Waiter {
  readonly resolve: (result: Result) => void;
  readonly reject: (error: ConnectError) => void;
  /** Stays reachable while this waits. The consumer may hold nothing but the promise. */
  holder: unknown;
}

const DONE: Result = Object.freeze({ done: true, value: undefined });
/** Entries of pulled messages are removed in batches of at least this size. */
const CLEAR_MIN = 1024;

let newWaiter: Waiter;
const executor = (resolve: (result: Result) => void, reject: (error: ConnectError) => void) => {
  newWaiter = { resolve, reject, holder: undefined };
};
const nobody: Waiter = { resolve: () => undefined, reject: () => undefined, holder: undefined };

export class StreamReader implements AsyncIterableIterator<unknown> {
  private readonly options: MessageQueueOptions;
  private readonly grant: (bytes: number) => void;
  private readonly scopes: boolean;
  private readonly grantFromBytes: number;
  /** What the sender may still send, in bytes. Negative after a message that cost more than the rest. */
  private credit: number;
  /** Cost of pulled messages that has not been granted again, in bytes. */
  private pulled = 0;
  /** The messages in order of arrival, and their costs. Entries before index `first` have been pulled. */
  private messages: unknown[] = [];
  private costs: number[] = [];
  private first = 0;
  private readonly waiters: Waiter[] = [];
  private reassembler: Reassembler | undefined;
  private assemblyCost = 0;
  /** Messages that are kept undecoded; undefined if messages are decoded as they arrive. */
  private held: { readonly bytes: Uint8Array; readonly received: ReceivedParts; readonly cost: number }[] | undefined;
  /** The last message has begun. */
  private lastBegun = false;
  /** The end of the last message is the end of this direction. */
  private lastIsEnd = false;
  /** No more messages follow. */
  private over = false;
  private error: ConnectError | undefined;
  /** Leases of the message that was pulled last. */
  private scope: MessageLeases | undefined;
  /** Whether any message has begun. */
  began = false;
  /** Whether the consumer has been told that no more messages follow. */
  isAtEnd = false;

  /** @param grant sends credit */
  constructor(options: MessageQueueOptions, grant: (bytes: number) => void) {
    this.options = options;
    this.grant = grant;
    this.scopes = isScoped(options.receivePolicy.lifetime);
    this.credit = options.windowBytes;
    this.grantFromBytes = Math.ceil(options.windowBytes / 2);
  }

  // Called when frames arrive.

  /**
   * Takes a message of the stream, or a fragment of one.
   * @returns why the call fails, if it does
   * @throws Violation
   */
  take(frame: ReceivedFrame): ConnectError | undefined {
    if (this.reassembler !== undefined) return this.reassembler.add(frame) ? this.onWhole() : undefined;
    if (this.lastBegun) throw new Violation("STREAM-8", "a message after the last one");
    if (this.credit <= 0) throw new Violation("CREDIT-1", `a message of ${frame.messageLength} bytes without credit`);
    const cost = frame.messageLength + MESSAGE_COST_BYTES;
    this.credit -= cost;
    if ((frame.flags & FLAG.endStream) !== 0) {
      this.lastBegun = true;
      this.lastIsEnd = !this.options.statusFollows;
    }
    return this.begin(frame, cost);
  }

  /**
   * Takes the first frame of the only message of this direction. It arrived with a frame of another kind and costs no
   * credit.
   */
  takeOnly(frame: ReceivedFrame): ConnectError | undefined {
    this.lastBegun = this.lastIsEnd = true;
    return this.begin(frame, 0);
  }

  private begin(frame: ReceivedFrame, cost: number): ConnectError | undefined {
    const { codec, receivePolicy, readMaxBytes, spanSource } = this.options;
    this.began = true;
    if (frame.messageLength > readMaxBytes) return tooLarge(frame.messageLength, readMaxBytes);
    if ((frame.flags & FLAG.more) !== 0 || frame.following || this.held !== undefined) {
      try {
        this.reassembler = Reassembler.start(frame, spanSource, receivePolicy);
      } catch (error) {
        if (error instanceof Violation) throw error;
        return noMemory(frame.messageLength, error);
      }
      this.assemblyCost = cost;
      return this.reassembler.add(frame) ? this.onWhole() : undefined;
    }
    let message: unknown;
    try {
      message = decodeWhole(codec, frame, spanSource, receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.unreadable(error);
    }
    this.deliver(message, cost);
    return undefined;
  }

  /** A fragment that followed its frame has arrived. Returns and throws as `take` does. */
  onFilled(): ConnectError | undefined {
    return this.reassembler?.filledUp() === true ? this.onWhole() : undefined;
  }

  private onWhole(): ConnectError | undefined {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it has just been completed
    const { bytes, received } = this.reassembler!;
    this.reassembler = undefined;
    if (this.held !== undefined) {
      this.held.push({ bytes, received, cost: this.assemblyCost });
      return undefined;
    }
    return this.decode(bytes, received, this.assemblyCost);
  }

  private decode(bytes: Uint8Array, received: ReceivedParts, cost: number): ConnectError | undefined {
    let message: unknown;
    try {
      message = received.decode(this.options.codec, bytes, 0, bytes.length, true);
    } catch (error) {
      return this.unreadable(error);
    }
    this.deliver(message, cost);
    return undefined;
  }

  /** Keeps messages as they arrive, undecoded, until `release`. */
  hold(): void {
    this.held ??= [];
  }

  /** Decodes the messages that were kept. @returns why the call fails, if it does */
  release(): ConnectError | undefined {
    const held = this.held ?? [];
    this.held = undefined;
    for (const [i, { bytes, received, cost }] of held.entries()) {
      const error = this.decode(bytes, received, cost);
      if (error === undefined) continue;
      for (const rest of held.slice(i + 1)) rest.received.drop();
      // Nothing behind the bad message is delivered.
      if (this.over) this.error = error;
      return error;
    }
    return undefined;
  }

  private unreadable(error: unknown): ConnectError {
    return parseError(error, this.options.statusFollows ? "response" : "request", this.options.receivePolicy.callLabel);
  }

  private deliver(message: unknown, cost: number): void {
    const waiter = this.waiters.shift();
    if (waiter === undefined) {
      this.messages.push(message);
      this.costs.push(cost);
    } else {
      this.onPulled(message, cost);
      waiter.resolve({ done: false, value: message });
    }
    if (this.lastIsEnd) this.end(undefined);
  }

  /** Whether a message has begun and is incomplete. */
  get isAssembling(): boolean {
    return this.reassembler !== undefined;
  }

  /** The sender has half-closed. @throws Violation */
  onEnd(): void {
    if (this.lastBegun) throw new Violation("STREAM-8", "a stream ended twice");
    if (this.reassembler !== undefined) throw new Violation("STREAM-9", "a stream ended within a message");
    this.lastBegun = true;
    this.end(undefined);
  }

  /** No more messages follow. The iterator yields what has arrived, then ends or throws. */
  end(error: ConnectError | undefined): void {
    if (this.over) return;
    this.over = true;
    this.lastBegun = true;
    this.error = error;
    this.reassembler?.received.drop();
    this.reassembler = undefined;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the loop ends when it is empty
    while (this.waiters.length > 0) this.settleOver(this.waiters.shift()!);
  }

  /** Discards what has arrived. The iterator ends or throws. */
  drop(error: ConnectError | undefined): void {
    for (; this.first < this.messages.length; this.first++) {
      const message = this.messages[this.first];
      if (typeof message === "object" && message !== null) leasesOf(message)?.end("its message was not delivered");
    }
    for (const { received } of this.held ?? []) received.drop();
    this.held = undefined;
    this.messages = [];
    this.costs = [];
    this.first = 0;
    if (this.over) this.error = error;
    else this.end(error);
  }

  /** Ends the leases of the message that was pulled last. */
  endScope(): void {
    const { scope } = this;
    this.scope = undefined;
    scope?.endScope();
  }

  // Called by the consumer.

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** @param holder stays reachable while this waits for a message */
  next(holder?: unknown): Promise<Result> {
    if (this.scope !== undefined && !this.options.isSingle) this.endScope();
    const { first } = this;
    if (first < this.messages.length) {
      const message = this.messages[first];
      const cost = this.costs[first];
      this.messages[first] = undefined;
      this.first = first + 1;
      if (this.first === this.messages.length) {
        this.messages.length = this.costs.length = this.first = 0;
      } else if (this.first >= CLEAR_MIN && this.first * 2 >= this.messages.length) {
        this.messages = this.messages.slice(this.first);
        this.costs = this.costs.slice(this.first);
        this.first = 0;
      }
      this.onPulled(message, cost);
      return Promise.resolve({ done: false, value: message });
    }
    const promise = new Promise<Result>(executor);
    const waiter = newWaiter;
    newWaiter = nobody;
    waiter.holder = holder;
    if (this.over) this.settleOver(waiter);
    else this.waiters.push(waiter);
    return promise;
  }

  private settleOver(waiter: Waiter): void {
    const { error } = this;
    this.error = undefined;
    this.isAtEnd = true;
    if (error === undefined) waiter.resolve(DONE);
    else waiter.reject(error);
  }

  private onPulled(message: unknown, cost: number): void {
    if (this.scopes) {
      this.endScope();
      this.scope = leasesOf(message as object);
    }
    this.pulled += cost;
    if (this.pulled < this.grantFromBytes || this.lastBegun) return;
    const bytes = this.pulled;
    this.pulled = 0;
    this.credit += bytes;
    this.grant(bytes);
  }
}

/** Pulls the only message of a stream. @throws ConnectError `Unimplemented` if there is none, or more than one */
export async function takeSingle(messages: AsyncIterable<unknown>): Promise<unknown> {
  const iterator = messages[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done === true) throw new ConnectError("protocol error: missing input message", Code.Unimplemented);
  const second = await iterator.next();
  if (second.done !== true) throw new ConnectError("protocol error: received extra input message", Code.Unimplemented);
  return first.value;
}
