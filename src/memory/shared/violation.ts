/**
 * The peer broke a rule of the protocol. Ends that connection and nothing else; the rule's id is explained in
 * docs/internals. What we ourselves get wrong is an assertion instead: `assertOwn`.
 */
export class Violation extends Error {
  override readonly name = "Violation";
  /** Id of the broken rule, for example "RING-3". */
  readonly rule: string;

  constructor(rule: string, detail: string) {
    super(`protocol violation ${rule}: ${detail}`);
    this.rule = rule;
  }
}

/** A contract of our own code. Failing it is a bug of this library, never of the peer or the user. */
export function assertOwn(condition: boolean, contract: string): asserts condition {
  if (!condition) throw new Error(`isthmus: broken invariant: ${contract}`);
}
