/**
 * The common parts of the code generators. Generated code is text made of field numbers, names quoted as JSON, and
 * names of our own functions. No value of a message gets into it.
 */

let allowed: boolean | undefined;

/** Whether functions may be made from text. `--disallow-code-generation-from-strings` or a policy may forbid it. */
export function mayGenerate(): boolean {
  if (allowed === undefined) {
    try {
      // eslint-disable-next-line @typescript-eslint/no-implied-eval -- this finds out whether it is allowed
      allowed = (new Function("return true") as () => boolean)();
    } catch {
      allowed = false;
    }
  }
  return allowed;
}

/** Collects the values that generated code refers to, and evaluates the code. */
export class Scope {
  private readonly names: string[] = [];
  private readonly values: unknown[] = [];
  private readonly variables: string[] = [];

  /** @param functions the code refers to these by their names */
  constructor(functions: Readonly<Record<string, unknown>>) {
    for (const [name, value] of Object.entries(functions)) {
      this.names.push(name);
      this.values.push(value);
    }
  }

  /** Adds a value, and returns the name by which the code refers to it. */
  constant(value: unknown): string {
    const name = `$${this.names.length}`;
    this.names.push(name);
    this.values.push(value);
    return name;
  }

  /** Adds a variable that keeps its value between calls, and returns its name. */
  variable(value: string): string {
    const name = `kept${this.variables.length}`;
    this.variables.push(`let ${name} = ${value};`);
    return name;
  }

  /** Runs the code, and returns its result. */
  evaluate<T>(code: string): T {
    const text = `"use strict";\n${this.variables.join("\n")}\n${code}`;
    // eslint-disable-next-line @typescript-eslint/no-implied-eval -- the file comment says what the text is made of
    const run = new Function(...this.names, text) as (...values: unknown[]) => T;
    return run(...this.values);
  }
}

/** Code for a property of `object`, whatever its name is. */
export function property(object: string, name: string): string {
  return `${object}[${JSON.stringify(name)}]`;
}
