/** Values such as users have them, from a fixed seed: every contestant's process makes the same ones. */

const names = [
  "Ada",
  "Grace",
  "Zoë",
  "Linus",
  "Łukasz",
  "Barbara",
  "Edsger",
  "Mária",
  "Ken",
  "東京 太郎",
  "Frances",
  "Niklaus",
];
const words = (
  "request response connection timeout upstream retry queue worker cache miss flush segment index commit rollback payload " +
  "handler session token expired user account order invoice shipped pending closed opened slow query rows in ms from to the of with"
).split(" ");
const services = ["checkout", "inventory", "gateway", "search", "billing", "mailer"];
const regions = ["eu-central-1", "us-east-1", "ap-northeast-1"];

export class Values {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number from 0 to below `below`, at most 2³². */
  int(below: number): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return Math.floor((((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32) * below);
  }

  chance(share: number): boolean {
    return this.int(1_000) < share * 1_000;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.int(from.length)];
  }

  /** Most are small, a few are large, as counts and differences are. */
  count(): number {
    return this.int(2 ** this.pick([4, 7, 7, 10, 14, 20, 30]));
  }

  /** Some significant digits, as measurements have. */
  double(below: number): number {
    return this.int(2 ** 32) * (below / 2 ** 32);
  }

  /** An unsigned number of 63 bits, most of them in use. */
  id(): bigint {
    return (BigInt(this.int(2 ** 31)) << 32n) | BigInt(this.int(2 ** 32));
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.int(256));
  }

  name(): string {
    return `${this.pick(names)} ${this.pick(names)}`;
  }

  word(): string {
    return this.pick(words);
  }

  /** Words up to about this length; one text of twenty has a character beyond ASCII. */
  text(length: number): string {
    let text = this.word();
    while (text.length < length) text += ` ${this.chance(0.2) ? String(this.count()) : this.word()}`;
    return this.chance(0.05) ? `${text} → ok` : text;
  }

  digits(length: number): string {
    return Array.from({ length }, () => this.int(10)).join("");
  }

  service(): string {
    return this.pick(services);
  }

  region(): string {
    return this.pick(regions);
  }
}
