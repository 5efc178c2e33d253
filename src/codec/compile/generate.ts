/**
 * What the two generators share. Generated code is text made of field numbers, names quoted as JSON, and names of our
 * own functions; no value of a message ever gets into it.
 */

let allowed: boolean | undefined;

/**
 * Whether functions may be made from text here (`--disallow-code-generation-from-strings`, a content security policy).
 */
export function mayGenerate(): boolean {
  if (allowed === undefined) {
    try {
      // eslint-disable-next-line @typescript-eslint/no-implied-eval -- whether it is allowed is the question
      allowed = (new Function("return true") as () => boolean)();
    } catch {
      allowed = false;
    }
  }
  return allowed;
}

/** Collects the values that generated code refers to, and makes the functions. */
export class Scope {
  private readonly names: string[] = [];
  private readonly values: unknown[] = [];
  private readonly variables: string[] = [];

  /** Lets the code refer to these by their names. */
  constructor(functions: Readonly<Record<string, unknown>>) {
    for (const [name, value] of Object.entries(functions)) {
      this.names.push(name);
      this.values.push(value);
    }
  }

  /** The name under which the code finds a value. */
  constant(value: unknown): string {
    const name = `$${this.names.length}`;
    this.names.push(name);
    this.values.push(value);
    return name;
  }

  /** The name of a variable that the code keeps between calls. */
  variable(value: string): string {
    const name = `kept${this.variables.length}`;
    this.variables.push(`let ${name} = ${value};`);
    return name;
  }

  /** Runs the code, which returns what it makes. */
  evaluate<T>(code: string): T {
    // eslint-disable-next-line @typescript-eslint/no-implied-eval -- what the text is made of: see above
    return (
      new Function(...this.names, `"use strict";\n${this.variables.join("\n")}\n${code}`) as (...values: unknown[]) => T
    )(...this.values);
  }
}

/** A property of `object`, whatever its name. */
export function property(object: string, name: string): string {
  return `${object}[${JSON.stringify(name)}]`;
}
