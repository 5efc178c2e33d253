/**
 * Checks users' options against a table, and suggests what was probably meant. Options are copied while they are
 * checked, so that later changes of the object, and getters that return another value each time, have no effect.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Rule, Rules } from "./kinds.js";
import { isObject, show } from "./kinds.js";

/** The options of one function. */
export interface OptionTable {
  /** The function that takes the options, as errors and the documentation name it. */
  readonly of: string;
  readonly rules: Rules;
  /** Prefix of options for another library. They are dropped. */
  readonly foreignPrefix?: string;
}

const tables: OptionTable[] = [];

/** All tables, in the order of the documentation. */
export const optionTables: readonly OptionTable[] = tables;

export function tableOf(of: string, rules: Rules, foreignPrefix?: string): OptionTable {
  const table = { of, rules, ...(foreignPrefix === undefined ? {} : { foreignPrefix }) };
  tables.push(table);
  return table;
}

/** Most names that an error lists. */
const LISTED_MAX = 10;

/**
 * Names that other libraries use, in lower case and without punctuation. Of several names, the first one in the table
 * is suggested.
 */
const SYNONYMS: Readonly<Record<string, readonly string[]>> = {
  baseurl: ["address"],
  chmod: ["mode"],
  clientsmax: ["maxConnections"],
  compression: ["sendCompression"],
  connections: ["maxConnections"],
  connecttimeout: ["handshakeTimeoutMs"],
  connecttimeoutms: ["handshakeTimeoutMs"],
  deadline: ["timeoutMs", "defaultTimeoutMs"],
  deadlinems: ["timeoutMs", "defaultTimeoutMs"],
  group: ["gid"],
  header: ["headers"],
  heartbeat: ["keepAlive"],
  host: ["address"],
  interceptor: ["interceptors"],
  maxconcurrentstreams: ["maxStreams"],
  maxmessagebytes: ["readMaxBytes"],
  maxmessagesize: ["readMaxBytes"],
  maxreceivemessagelength: ["readMaxBytes"],
  maxreceivemessagesize: ["readMaxBytes"],
  maxrequestbytes: ["readMaxBytes"],
  maxresponsebytes: ["readMaxBytes"],
  maxsendmessagelength: ["writeMaxBytes"],
  metadata: ["headers"],
  middleware: ["interceptors"],
  path: ["address"],
  permission: ["mode"],
  permissions: ["mode"],
  ping: ["keepAlive"],
  poll: ["polling"],
  retry: ["reconnect"],
  retries: ["reconnect"],
  router: ["routes"],
  services: ["routes"],
  sharedmemory: ["memory", "carrier"],
  shm: ["memory", "carrier"],
  size: ["length"],
  socket: ["address"],
  socketpath: ["address"],
  start: ["offset"],
  target: ["address"],
  threads: ["workers", "count"],
  timeout: ["timeoutMs", "defaultTimeoutMs", "maxTimeoutMs"],
  timeoutms: ["defaultTimeoutMs", "maxTimeoutMs"],
  transport: ["carrier"],
  umask: ["mode"],
  uri: ["address"],
  url: ["address"],
};

/**
 * The options of the table, without undefined ones.
 * @param what the operation, as the beginning of an error's text; empty if there is none
 * @throws ConnectError `InvalidArgument` that names the option, what was expected, and what was probably meant
 */
export function checkOptions<T extends object>(table: OptionTable, options: T, what = ""): T {
  if (!isObject(options)) {
    throw invalid(
      `${what}${table.of}: expected an object of options, not ${show(options)}${"address" in table.rules && typeof options === "string" ? `; did you mean { address: ${show(options)} }?` : ""}`,
    );
  }
  return take(table, table.rules, options, what, "") as T;
}

const NOTHING = Object.freeze({});

/** The same for options that may be omitted. */
export function checkOptional<T extends object>(table: OptionTable, options: T | undefined, what = ""): Partial<T> {
  return options === undefined ? NOTHING : checkOptions<Partial<T>>(table, options, what);
}

function take(table: OptionTable, rules: Rules, options: object, what: string, path: string): Record<string, unknown> {
  const given = options as Readonly<Record<string, unknown>>;
  const taken: Record<string, unknown> = {};
  // Includes inherited properties: options may be an instance of a class, or made by Object.create.
  for (const name in given) {
    if (
      Object.hasOwn(rules, name) ||
      (table.foreignPrefix !== undefined && name.startsWith(table.foreignPrefix)) ||
      given[name] === undefined
    )
      continue;
    throw invalid(`${what}option ${path}${name}: there is no such option; ${suggestion(table, rules, name, path)}`);
  }
  for (const [name, rule] of Object.entries(rules)) {
    const value = given[name];
    if (value === undefined && rule.isRequired !== true) continue;
    taken[name] = valueOf(table, rule, value, what, `${path}${name}`);
  }
  return taken;
}

function valueOf(table: OptionTable, { kind }: Rule, value: unknown, what: string, path: string): unknown {
  const complaint = kind.complaint(value);
  if (complaint !== undefined) throw invalid(`${what}option ${path}: ${complaint}`);
  return kind.rules === undefined || value === false
    ? value
    : take(table, kind.rules, value as object, what, `${path}.`);
}

function invalid(text: string): ConnectError {
  return new ConnectError(text, Code.InvalidArgument);
}

/** What was probably meant by a name that is not in the table. */
function suggestion({ of, rules: all }: OptionTable, rules: Rules, name: string, path: string): string {
  const names = Object.keys(rules);
  const meant = knownAs(name, rules) ?? nearest(name, names);
  if (meant !== undefined) return `did you mean ${path}${meant}?`;
  const inside = Object.keys(all).find((group) => Object.hasOwn(all[group].kind.rules ?? {}, name));
  if (inside !== undefined) return `did you mean ${inside}.${name}?`;
  for (const other of tables) {
    const there = other.of === of ? undefined : knownAs(name, other.rules);
    if (there !== undefined) return `${there === name ? "it" : there} is an option of ${other.of}`;
  }
  if (names.length > LISTED_MAX) return `docs/options.md lists the options of ${of}`;
  return `${path === "" ? of : path.slice(0, -1)} takes ${names.join(", ")}`;
}

/** The table's name for it: the same except for case and punctuation, or a synonym. */
function knownAs(name: string, rules: Rules): string | undefined {
  return (
    Object.keys(rules).find((known) => plain(known) === plain(name)) ??
    SYNONYMS[plain(name)]?.find((synonym) => Object.hasOwn(rules, synonym))
  );
}

function plain(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, "");
}

/** The name with the fewest changes, if there are few enough for a typing error. */
function nearest(name: string, names: readonly string[]): string | undefined {
  let best: string | undefined;
  let fewest = Math.min(Math.floor(name.length / 3), 3) + 1;
  for (const known of names) {
    const changes = distance(plain(name), plain(known));
    if (changes < fewest) [best, fewest] = [known, changes];
  }
  return best;
}

/** Number of letters to add, drop, replace or swap with the next one (optimal string alignment). */
function distance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      row[j] = Math.min(
        rows[i - 1][j] + 1,
        row[j - 1] + 1,
        rows[i - 1][j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1),
        swapped ? rows[i - 2][j - 2] + 1 : Infinity,
      );
    }
    rows.push(row);
  }
  return rows[a.length][b.length];
}
