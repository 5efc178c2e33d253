/**
 * The receiving end of one direction of a stream: takes the frames of messages, keeps messages until they are pulled,
 * decodes them then, and grants the sender credit for pulled ones.
 *
 * CREDIT-2  Only pulled messages are granted again. So at most the window plus one message is kept here, even if the
 *           consumer is slow.
 * STREAM-R  A message's scope ends when the next one is pulled, before that one arrives: a sender may need the memory
 *           for it.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ReceivedFrame, SpanSource } from "../../carrier/carrier.js";
import type { MessageCodec } from "../../codec/codec.js";
import type { KeptBytes } from "../../memory/kept/kept-bytes.js";
import type { MessageLeases } from "../../memory/payload/message-leases.js";
import { isScoped } from "../../memory/payload/lease.js";
import { leasesOf } from "../../memory/payload/message-leases.js";
import { Violation } from "../../memory/shm/violation.js";
import { FLAG, MESSAGE_COST_BYTES } from "../../wire/frame.js";
import { noMemory, parseError, tooLarge } from "../errors.js";
import type { ReceivePolicy } from "../inbound.js";
import { Reassembler, decodeWhole } from "../inbound.js";
import { PendingMessages } from "./pending-messages.js";

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
  /** Counts the messages that were not pulled (KEPT-1). */
  readonly kept: KeptBytes;
}

/** The stream that a reader belongs to. */
export interface StreamReaderOwner {
  /** Grants the sender more bytes. */
  grant(bytes: number): void;
  /** A message that had arrived could not be decoded when it was pulled. Nothing behind it is delivered. */
  onUnreadable(error: ConnectError): void;
}

type Result = IteratorResult<unknown, undefined>;
interface Waiter {
  readonly resolve: (result: Result) => void;
  readonly reject: (error: ConnectError) => void;
  /** Stays reachable while this waits. The consumer may hold nothing but the promise. */
  holder: unknown;
}

const DONE: Result = Object.freeze({ done: true, value: undefined });

let newWaiter: Waiter;
const executor = (resolve: (result: Result) => void, reject: (error: ConnectError) => void) => {
  newWaiter = { resolve, reject, holder: undefined };
};
const nobody: Waiter = { resolve: () => undefined, reject: () => undefined, holder: undefined };

export class StreamReader implements AsyncIterableIterator<unknown> {
  private readonly options: MessageQueueOptions;
  private readonly owner: StreamReaderOwner;
  private readonly scopes: boolean;
  private readonly grantFromBytes: number;
  /** What the sender may still send, in bytes. Negative after a message that cost more than the rest. */
  private credit: number;
  /** Cost of pulled messages that has not been granted again, in bytes. */
  private pulled = 0;
  /** Made with the first message that nobody waits for: most streams are read as they come. */
  private pending: PendingMessages | undefined;
  private readonly waiters: Waiter[] = [];
  private reassembler: Reassembler | undefined;
  private assemblyCost = 0;
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

  constructor(options: MessageQueueOptions, owner: StreamReaderOwner) {
    this.options = options;
    this.owner = owner;
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
    const { codec, receivePolicy, readMaxBytes, spanSource, kept } = this.options;
    this.began = true;
    if (frame.messageLength > readMaxBytes) return tooLarge(frame.messageLength, readMaxBytes);
    const isWaitedFor = this.waiters.length > 0;
    const isWhole = (frame.flags & FLAG.more) === 0 && !frame.following;
    if (!isWhole || (!isWaitedFor && !isSimple(frame, receivePolicy))) {
      try {
        this.reassembler = Reassembler.start(frame, spanSource, receivePolicy, kept);
      } catch (error) {
        if (error instanceof Violation) throw error;
        return noMemory(frame.messageLength, error);
      }
      this.assemblyCost = cost;
      return this.reassembler.add(frame) ? this.onWhole() : undefined;
    }
    if (!isWaitedFor) {
      (this.pending ??= new PendingMessages(kept)).addFrame(frame, cost);
      if (this.lastIsEnd) this.end(undefined);
      return undefined;
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
    const whole = this.reassembler!;
    this.reassembler = undefined;
    if (this.waiters.length === 0) {
      (this.pending ??= new PendingMessages(this.options.kept)).add(whole, this.assemblyCost);
      if (this.lastIsEnd) this.end(undefined);
      return undefined;
    }
    const { bytes, received } = whole;
    let message: unknown;
    try {
      message = received.decode(this.options.codec, bytes, 0, bytes.length, true);
    } catch (error) {
      return this.unreadable(error);
    }
    this.deliver(message, this.assemblyCost);
    return undefined;
  }

  private unreadable(error: unknown): ConnectError {
    return parseError(error, this.options.statusFollows ? "response" : "request", this.options.receivePolicy.callLabel);
  }

  /** Hands a message to the consumer that waits for it. */
  private deliver(message: unknown, cost: number): void {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- decoding does not call the consumer
    const waiter = this.waiters.shift()!;
    this.onPulled(message, cost);
    waiter.resolve({ done: false, value: message });
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
    this.pending?.clear();
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
    const { pending } = this;
    if (pending !== undefined && !pending.isEmpty) {
      const cost = pending.firstCost;
      let message: unknown;
      try {
        message = pending.take(this.options.codec);
      } catch (error) {
        return Promise.reject(this.onBadPull(error));
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

  /** The message that was pulled cannot be decoded. Nothing behind it is delivered. */
  private onBadPull(thrown: unknown): ConnectError {
    const error = this.unreadable(thrown);
    this.drop(undefined);
    this.isAtEnd = true;
    this.owner.onUnreadable(error);
    // The owner may have ended this with the error, which the consumer has now.
    this.error = undefined;
    return error;
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
    this.owner.grant(bytes);
  }
}

/** Whether the bytes of a message that a frame brings completely are all there is to keep of it. */
function isSimple(frame: ReceivedFrame, { lifetime }: ReceivePolicy): boolean {
  return frame.spanCount === 0 && frame.fragmentSource === frame.scratch && lifetime !== "strict";
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
