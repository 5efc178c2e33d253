/**
 * The bytes that every call carries, and the proof that they arrived.
 *
 * The sender writes every byte before each call, the receiver compares every byte after it; what is written depends on
 * the call's id and on the direction. The pattern is a table of pseudo-random bytes, read from a start that the id
 * chooses, over and over. Its period is prime, so bytes that land a page, a block or a power of two away from their
 * place do not match. Large payloads are written with `set` and compared with `compare`, that is at the speed of
 * memory, so that the figures are about the peers and not about a checksum; small ones with a plain loop, which is
 * faster there. Neither allocates.
 */

/** Bytes after which the pattern repeats: a prime. */
const period = 65_521;
/** Distinct places at which a payload may start in the table; prime, and `startCount * startStride < period`. */
const startCount = 1_021;
const startStride = 61;
/** Up to this many bytes, a loop beats the calls into native code. */
const loopBytesMax = 128;

export type Direction = "request" | "reply";

/** Two periods, so that one whole period can be read from any start. */
const table = makeTable();

/** A payload differs from what its sender wrote. The run is worthless and stops. */
export class PayloadMismatch extends Error {
  override readonly name = "PayloadMismatch";
}

export class PayloadPattern {
  readonly byteLength: number;
  /** For each start, one whole period of the pattern; empty while payloads are shorter than one. */
  readonly #periods: Buffer[];
  /** For each start, what is left after the whole periods. */
  readonly #tails: Buffer[];
  readonly #tailLength: number;

  constructor(byteLength: number) {
    this.byteLength = byteLength;
    this.#tailLength = byteLength % period;
    this.#periods = byteLength < period ? [] : windows(period);
    this.#tails = windows(this.#tailLength);
  }

  /** Writes every byte of `target`, which is `byteLength` long. */
  produce(target: Uint8Array, id: number, direction: Direction): void {
    const { byteLength } = this;
    if (target.length !== byteLength) throw new RangeError(`the target has ${target.length} bytes, not ${byteLength}`);
    const start = startOf(id, direction);
    if (byteLength <= loopBytesMax) {
      const first = start * startStride;
      for (let i = 0; i < byteLength; i++) target[i] = table[first + i];
      return;
    }
    const tailAt = byteLength - this.#tailLength;
    for (let at = 0; at < tailAt; at += period) target.set(this.#periods[start], at);
    if (this.#tailLength > 0) target.set(this.#tails[start], tailAt);
  }

  /** Reads every byte of `data`; throws {@link PayloadMismatch} unless it is what `produce` writes for this call. */
  check(data: Uint8Array, id: number, direction: Direction): void {
    if (data.length !== this.byteLength) {
      throw new PayloadMismatch(
        `payload mismatch: the ${direction} of call ${id} has ${data.length} bytes, not ${this.byteLength}`,
      );
    }
    if (!this.#equals(data, startOf(id, direction))) throw new PayloadMismatch(this.#describe(data, id, direction));
  }

  /** Like `check`, of the first and the last byte only. */
  checkEnds(data: Uint8Array, id: number, direction: Direction): void {
    const first = startOf(id, direction) * startStride;
    const last = this.byteLength - 1;
    if (data.length === this.byteLength && data[0] === table[first] && data[last] === table[first + (last % period)])
      return;
    throw new PayloadMismatch(
      `payload mismatch: the ${direction} of call ${id} does not begin and end as it was written`,
    );
  }

  #equals(data: Uint8Array, start: number): boolean {
    const { byteLength } = this;
    if (byteLength <= loopBytesMax) {
      const first = start * startStride;
      let difference = 0;
      for (let i = 0; i < byteLength; i++) difference |= data[i] ^ table[first + i];
      return difference === 0;
    }
    const tailAt = byteLength - this.#tailLength;
    for (let at = 0; at < tailAt; at += period) {
      if (this.#periods[start].compare(data, at, at + period) !== 0) return false;
    }
    return this.#tailLength === 0 || this.#tails[start].compare(data, tailAt, byteLength) === 0;
  }

  #describe(data: Uint8Array, id: number, direction: Direction): string {
    const first = startOf(id, direction) * startStride;
    const at = data.findIndex((byte, i) => byte !== table[first + (i % period)]);
    const expected = table[first + (at % period)];
    return `payload mismatch: byte ${at} of ${this.byteLength} in the ${direction} of call ${id} is ${data[at]}, not ${expected}`;
  }
}

/** Where in the table a call's payload starts; never the same for the request and the reply of one call. */
function startOf(id: number, direction: Direction): number {
  const mixed = Math.imul(id ^ (id >>> 15), 0x2c1b_3c6d);
  const start = ((mixed ^ (mixed >>> 12)) >>> 0) % startCount;
  return direction === "request" ? start : (start + (startCount >> 1)) % startCount;
}

function windows(byteLength: number): Buffer[] {
  return Array.from({ length: startCount }, (_, start) =>
    table.subarray(start * startStride, start * startStride + byteLength),
  );
}

function makeTable(): Buffer {
  const bytes = Buffer.alloc(period * 2);
  let state = 0x9e37_79b9;
  for (let i = 0; i < period; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state >>> 24;
  }
  bytes.copy(bytes, period, 0, period);
  return bytes;
}
