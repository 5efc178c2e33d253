/** Kinds of option values: their names in the documentation, and the complaint about a value of another kind. */
import { isAbsolute } from "node:path";
import { SHARE_ENV } from "node:worker_threads";

export interface Kind {
  /** The type in the documentation. */
  readonly type: string;
  /** The accepted values of the type, if not all are. */
  readonly range?: string;
  /** The unit of numbers. */
  readonly unit?: string;
  /** The rules of nested options. */
  readonly rules?: Rules;
  /** What was expected instead of `value`, and how to write it; undefined if the value is acceptable. */
  complaint(value: unknown): string | undefined;
}

export interface Rule {
  readonly kind: Kind;
  /** The default: the value itself, or a description. */
  readonly byDefault?: number | string;
  readonly isRequired?: true;
  readonly meaning: string;
}

export type Rules = Readonly<Record<string, Rule>>;

export function without<T extends object, K extends keyof T>(rules: T, ...names: K[]): Omit<T, K> {
  return Object.fromEntries(Object.entries(rules).filter(([name]) => !names.includes(name as K))) as Omit<T, K>;
}

const SHOWN_CHARACTERS_MAX = 60;

/** A value as errors show it, shortened. Never throws. */
export function show(value: unknown): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value.length > SHOWN_CHARACTERS_MAX ? `${value.slice(0, SHOWN_CHARACTERS_MAX)}…` : value);
    case "bigint":
      return `${value}n`;
    case "function":
      return "a function";
    case "object":
      if (value === null) return "null";
      return Array.isArray(value) ? "an array" : value instanceof Promise ? "a promise" : "an object";
    default:
      return String(value);
  }
}

const DURATION = /^(\d+(?:\.\d+)?) ?(ms|s|min|m|h)$/;
const MS_OF: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 };

/** The number that was probably meant. */
function numberMeant(value: unknown, unit: string | undefined): number | undefined {
  if (typeof value === "bigint") return Number(value);
  if (typeof value !== "string" || value.trim() === "") return undefined;
  const duration = unit === "milliseconds" ? DURATION.exec(value) : null;
  const meant = duration === null ? Number(value) : Number(duration[1]) * MS_OF[duration[2]];
  return Number.isNaN(meant) ? undefined : meant;
}

interface NumberRange {
  readonly unit?: "seconds" | "milliseconds" | "microseconds" | "bytes" | "";
  readonly above?: number;
  readonly min?: number;
  readonly max?: number;
  readonly isWhole?: true;
}

function rangeOf(above: number | undefined, min: number | undefined, max: number | undefined): string {
  if (above !== undefined) return `above ${above}${max === undefined ? "" : `, up to ${max}`}`;
  if (min !== undefined) return max === undefined ? `at least ${min}` : `from ${min} to ${max}`;
  return "";
}

/**
 * SUBTLE: every comparison with NaN is false. So this checks that the number is within its range, not that it is
 * outside.
 */
export function numberOf({ unit = "", above, min, max, isWhole }: NumberRange): Kind {
  const range = rangeOf(above, min, max);
  const separator = range === "" ? "" : min !== undefined && max === undefined ? ", " : " ";
  const expected = `expected a ${isWhole ? "whole " : ""}number${unit === "" ? "" : ` of ${unit}`}${separator}${range}`;
  const isRight = (value: unknown) =>
    typeof value === "number" &&
    !Number.isNaN(value) &&
    (above === undefined || value > above) &&
    (min === undefined || value >= min) &&
    (max === undefined || value <= max) &&
    (!isWhole || Number.isInteger(value));
  return {
    type: "number",
    unit,
    range: `${isWhole ? "whole, " : ""}${range === "" ? "any" : range}`,
    complaint(value) {
      if (isRight(value)) return undefined;
      const meant = numberMeant(value, unit);
      return `${expected}, not ${show(value)}${meant !== undefined && isRight(meant) ? `; did you mean ${meant}?` : ""}`;
    },
  };
}

/**
 * @param range a description
 * @param complaintOf what is wrong with a number; undefined if it is acceptable
 */
export function sizeOf(range: string, complaintOf: (bytes: number) => string | undefined): Kind {
  const isRight = (value: unknown) => typeof value === "number" && complaintOf(value) === undefined;
  return {
    type: "number",
    unit: "bytes",
    range,
    complaint: (value) => (isRight(value) ? undefined : `expected a number of bytes, a ${range}, not ${show(value)}`),
  };
}

/** Permission bits of a file. */
export const mode: Kind = {
  type: "number",
  range: "`0` to `0o777`",
  complaint(value) {
    if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0o777) return undefined;
    const octal = /^(?:0o?)?([0-7]{3})$/.exec(
      String(typeof value === "string" || typeof value === "number" ? value : ""),
    );
    return `expected permission bits from 0 to 0o777, not ${show(value)}${octal === null ? "" : `; did you mean 0o${octal[1]}?`}`;
  },
};

export const boolean: Kind = {
  type: "boolean",
  complaint: (value) => (typeof value === "boolean" ? undefined : `expected true or false, not ${show(value)}`),
};

export function oneOf(...choices: readonly string[]): Kind {
  const quoted = choices.map((choice) => JSON.stringify(choice));
  const expected = `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
  return {
    type: quoted.map((choice) => `\`${choice}\``).join(", "),
    complaint: (value) => (choices.includes(value as string) ? undefined : `expected ${expected}, not ${show(value)}`),
  };
}

/** @param signature as in the documentation */
export function functionOf(signature: string): Kind {
  return {
    type: `\`${signature}\``,
    complaint: (value) =>
      typeof value === "function" ? undefined : `expected a function ${signature}, not ${show(value)}`,
  };
}

/**
 * @param expected a description, in the plural
 * @param isOne whether a value can be an item
 */
export function listOf(type: string, expected: string, isOne: (value: unknown) => boolean): Kind {
  return {
    type,
    complaint(value) {
      if (!Array.isArray(value))
        return `expected an array of ${expected}, not ${show(value)}${isOne(value) ? "; put it into an array" : ""}`;
      const at = value.findIndex((one) => !isOne(one));
      return at < 0 ? undefined : `expected an array of ${expected}, but item ${at} is ${show(value[at])}`;
    },
  };
}

export const interceptors: Kind = listOf(
  "`Interceptor[]`",
  "interceptors, which are functions",
  (value) => typeof value === "function",
);

export function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value that another library checks, passed on as it is. @param expected a description */
export function objectOf(type: string, expected: string): Kind {
  return { type, complaint: (value) => (isObject(value) ? undefined : `expected ${expected}, not ${show(value)}`) };
}

export const signal: Kind = {
  type: "`AbortSignal`",
  complaint(value) {
    const looksLikeOne =
      isObject(value) &&
      typeof (value as Partial<AbortSignal>).aborted === "boolean" &&
      typeof (value as Partial<AbortSignal>).addEventListener === "function";
    if (looksLikeOne) return undefined;
    return `expected an AbortSignal, not ${value instanceof AbortController ? "its controller; did you mean controller.signal?" : show(value)}`;
  },
};

/** Nested options. @param example how to write them */
export function groupOf(rules: Rules, example: string): Kind {
  return {
    type: "object",
    rules,
    complaint: (value) => (isObject(value) ? undefined : `expected an object such as ${example}, not ${show(value)}`),
  };
}

/** Nested options, or `false` to turn the feature off. */
export function groupOrFalse(rules: Rules, example: string): Kind {
  return {
    type: "`false` or object",
    rules,
    complaint: (value) =>
      value === false || isObject(value)
        ? undefined
        : `expected false, or an object such as ${example}, not ${show(value)}`,
  };
}

/** Nested options, or a boolean: `true` takes the defaults, `false` turns the feature off. */
export function groupOrBoolean(rules: Rules, example: string): Kind {
  return {
    type: "boolean or object",
    rules,
    complaint: (value) =>
      typeof value === "boolean" || isObject(value)
        ? undefined
        : `expected true, false, or an object such as ${example}, not ${show(value)}`,
  };
}

/** Origins of web pages, in the form that browsers send. */
export const origins: Kind = {
  type: '`"*"` or `string[]`',
  complaint(value) {
    if (value === "*") return undefined;
    if (!Array.isArray(value)) return `expected "*" or a list of origins, not ${show(value)}`;
    for (const origin of value as readonly unknown[]) {
      const meant = typeof origin === "string" && URL.canParse(origin) ? new URL(origin).origin : undefined;
      if (meant === origin || origin === "null") continue;
      return `expected origins such as "https://app.example", not ${show(origin)}${meant === undefined || meant === "null" ? "" : `; did you mean ${show(meant)}?`}`;
    }
    return undefined;
  },
};

const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9a-z-]+$/i;

export const headerNames: Kind = listOf(
  "`string[]`",
  "names of headers",
  (one) => typeof one === "string" && HEADER_NAME.test(one),
);

/** One or more addresses. `parseAddress` checks each; this checks only that a list is not empty. */
export const addresses: Kind = {
  type: "string or `string[]`",
  complaint: (value) => (Array.isArray(value) && value.length === 0 ? "the list is empty" : undefined),
};

export const address: Kind = {
  type: "string",
  complaint: (value) => (Array.isArray(value) ? "expected one address, not an array" : undefined),
};

export const text: Kind = {
  type: "string",
  complaint: (value) => (typeof value === "string" ? undefined : `expected a string, not ${show(value)}`),
};

/** SUBTLE: not `instanceof`, since a test runner's URL may be of another realm. */
export function isUrl(value: unknown): value is URL {
  return isObject(value) && typeof (value as Partial<URL>).href === "string";
}

/** A module that worker threads can load. */
export const moduleUrl: Kind = {
  type: "`URL` or string",
  range: "`file:` URL or absolute path",
  complaint(value) {
    if (isUrl(value) || (typeof value === "string" && (isAbsolute(value) || value.startsWith("file:"))))
      return undefined;
    return `expected an absolute path or a URL, as new URL("../server/routes.js", import.meta.url), not ${show(value)}`;
  },
};

export const environment: Kind = {
  type: "object or `SHARE_ENV`",
  complaint: (value) =>
    isObject(value) || value === SHARE_ENV
      ? undefined
      : `expected an object of environment variables, or SHARE_ENV of node:worker_threads, not ${show(value)}`,
};

export const anything: Kind = { type: "any", complaint: () => undefined };
