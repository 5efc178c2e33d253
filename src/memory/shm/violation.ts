/**
 * Thrown if the peer broke a rule of the protocol. It ends that connection and nothing else. docs/internals explains
 * the rules by their ids. For our own mistakes there is `assertOwn`.
 */
export class Violation extends Error {
  override readonly name = "Violation";
  /** The id of the broken rule, for example "RING-3". */
  readonly rule: string;

  constructor(rule: string, detail: string) {
    super(`protocol violation ${rule}: ${detail}`);
    this.rule = rule;
  }
}

/** Checks a contract of our own code. If it fails, this library has a bug, and not the peer or the user. */
export function assertOwn(condition: boolean, contract: string): asserts condition {
  if (!condition) throw new Error(`isthmus: broken invariant: ${contract}`);
}
