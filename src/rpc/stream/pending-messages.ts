/**
 * The messages of a stream that have arrived and were not pulled: undecoded, in order of arrival. A decoded message can
 * be hundreds of times as large as its bytes, and decoding it takes time that nobody may ever need.
 *
 * Small messages are copied one behind the other into one array. So keeping one costs a copy and no object.
 */
import type { ReceivedFrame } from "../../carrier/carrier.js";
import type { MessageCodec } from "../../codec/codec.js";
import type { KeptBytes } from "../../memory/kept/kept-bytes.js";
import { MESSAGE_COST_BYTES } from "../../wire/frame.js";
import type { ReceivedParts } from "../inbound.js";
import { NO_SPANS } from "../inbound.js";

/** A message with memory of its own. */
export interface WholeMessage {
  readonly bytes: Uint8Array;
  readonly received: ReceivedParts;
}

/** Size of the array for small messages at first, and up to which it is kept while it is empty. */
const LOG_BYTES_MIN = 512;
/** Up to this size, Node's pool is cheaper than memory of its own. */
const POOLED_BYTES_MAX = 2048;
const LOG_BYTES_IDLE_MAX = 32 << 10;
/** Entries of pulled messages are removed in batches of at least this size. */
const CLEAR_MIN = 1024;
const NO_BYTES = new Uint8Array(0);

export class PendingMessages {
  private readonly kept: KeptBytes;
  /** The bytes of small messages. Those in [begin, end) were not pulled. */
  private log: Uint8Array = NO_BYTES;
  private begin = 0;
  private end = 0;
  // By message. Entries before index `first` have been pulled.
  private wholes: (WholeMessage | undefined)[] = [];
  private lengths: number[] = [];
  private costs: number[] = [];
  private first = 0;

  /** @param kept counts what is here, and what `add` is given has counted already */
  constructor(kept: KeptBytes) {
    this.kept = kept;
  }

  get isEmpty(): boolean {
    return this.first === this.costs.length;
  }

  /** The credit that the first message cost, in bytes. */
  get firstCost(): number {
    return this.costs[this.first];
  }

  /** Copies the message that a frame brings completely, without spans. */
  addFrame({ fragmentSource, fragmentOffset, fragmentLength }: ReceivedFrame, cost: number): void {
    this.kept.take(fragmentLength + MESSAGE_COST_BYTES);
    this.makeRoom(fragmentLength);
    this.log.set(fragmentSource.subarray(fragmentOffset, fragmentOffset + fragmentLength), this.end);
    this.end += fragmentLength;
    this.push(undefined, fragmentLength, cost);
  }

  add(whole: WholeMessage, cost: number): void {
    this.push(whole, 0, cost);
  }

  private push(whole: WholeMessage | undefined, byteLength: number, cost: number): void {
    this.wholes.push(whole);
    this.lengths.push(byteLength);
    this.costs.push(cost);
  }

  private makeRoom(byteLength: number): void {
    if (this.end + byteLength <= this.log.length) return;
    const { begin, end, log } = this;
    const used = end - begin;
    let target = log;
    if (used + byteLength > log.length / 2)
      target = makeLog(Math.max(LOG_BYTES_MIN, 1 << (33 - Math.clz32(used + byteLength))));
    target.set(log.subarray(begin, end));
    this.log = target;
    this.begin = 0;
    this.end = used;
  }

  /** Removes the first message and decodes it. @throws what the codec throws; then nothing of it is leased any more */
  take(codec: MessageCodec): unknown {
    const { first, begin, log } = this;
    const whole = this.wholes[first];
    const byteLength = this.lengths[first];
    this.wholes[first] = undefined;
    this.first = first + 1;
    if (this.isEmpty) this.wholes.length = this.lengths.length = this.costs.length = this.first = 0;
    else if (this.first >= CLEAR_MIN && this.first * 2 >= this.costs.length) this.clearPulled();
    if (whole !== undefined) return whole.received.decode(codec, whole.bytes, 0, whole.bytes.length, true);
    this.kept.give(byteLength + MESSAGE_COST_BYTES);
    this.begin = begin + byteLength;
    if (this.begin === this.end) {
      this.begin = this.end = 0;
      if (log.length > LOG_BYTES_IDLE_MAX) this.log = NO_BYTES;
    }
    return codec.decode(log, begin, byteLength, false, NO_SPANS);
  }

  private clearPulled(): void {
    this.wholes = this.wholes.slice(this.first);
    this.lengths = this.lengths.slice(this.first);
    this.costs = this.costs.slice(this.first);
    this.first = 0;
  }

  /** Drops all messages, and ends their leases. */
  clear(): void {
    for (; this.first < this.costs.length; this.first++) {
      const whole = this.wholes[this.first];
      if (whole === undefined) this.kept.give(this.lengths[this.first] + MESSAGE_COST_BYTES);
      else whole.received.drop();
    }
    this.wholes.length = this.lengths.length = this.costs.length = this.first = 0;
    this.begin = this.end = 0;
    this.log = NO_BYTES;
  }
}

function makeLog(byteLength: number): Uint8Array {
  if (byteLength > POOLED_BYTES_MAX) return new Uint8Array(byteLength);
  const { buffer, byteOffset } = Buffer.allocUnsafe(byteLength);
  // Not a Buffer: the decoder is faster if all its inputs are of one class.
  return new Uint8Array(buffer, byteOffset, byteLength);
}
