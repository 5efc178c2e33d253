/**
 * The least that decoding can do: the same objects written as literals by hand. No bytes are parsed, but what has to be
 * new for each message is made anew: strings from their bytes, bigints, byte arrays. Lists are pushed to and maps
 * filled key by key, as a reader meets them one by one.
 */
import type { LogRecord, Mixed, Order, Small, Ids } from "../proto/shapes_pb.js";
import type { ShapeName } from "./shapes.js";

/** A message whose strings are their bytes. */
type Pattern<T> = T extends string
  ? Buffer
  : T extends Uint8Array | number | bigint | boolean | undefined
    ? T
    : T extends (infer E)[]
      ? Pattern<E>[]
      : {
          [K in keyof T]: K extends "$typeName"
            ? T[K]
            : K extends "labels"
              ? [Buffer, Buffer][]
              : K extends "case"
                ? T[K]
                : Pattern<T[K]>;
        };

export const literals: Partial<Record<ShapeName, (from: never) => unknown>> = {
  small: (from: Pattern<Small>): unknown => ({
    $typeName: "isthmus.bench.shapes.Small",
    id: from.id,
    name: text(from.name),
    active: from.active,
  }),
  mixed: mixedLiteral,
  nested: (from: Pattern<Order>): unknown => ({
    $typeName: "isthmus.bench.shapes.Order",
    id: from.id,
    customer: {
      $typeName: "isthmus.bench.shapes.Customer",
      name: text(from.customer!.name),
      email: text(from.customer!.email),
      address: {
        $typeName: "isthmus.bench.shapes.Address",
        street: text(from.customer!.address!.street),
        city: text(from.customer!.address!.city),
        zip: text(from.customer!.address!.zip),
        position: {
          $typeName: "isthmus.bench.shapes.Position",
          latitude: from.customer!.address!.position!.latitude,
          longitude: from.customer!.address!.position!.longitude,
        },
      },
    },
    note: text(from.note),
  }),
  log: (from: Pattern<LogRecord>): unknown => ({
    $typeName: "isthmus.bench.shapes.LogRecord",
    timeUnixNano: anew(from.timeUnixNano),
    level: from.level,
    service: text(from.service),
    message: text(from.message),
    labels: record(from.labels),
    traceId: from.traceId.slice(),
    spanId: from.spanId.slice(),
    line: from.line,
    status: from.status,
    durationMs: from.durationMs,
  }),
  ids: (from: Pattern<Ids>): unknown => ({
    $typeName: "isthmus.bench.shapes.Ids",
    account: anew(from.account),
    transaction: anew(from.transaction),
    amount: anew(from.amount),
    session: anew(from.session),
    parent: anew(from.parent),
    related: list(from.related, anew),
  }),
};

function mixedLiteral(from: Pattern<Mixed>): unknown {
  return {
    $typeName: "isthmus.bench.shapes.Mixed",
    id: from.id,
    name: text(from.name),
    email: text(from.email),
    active: from.active,
    score: from.score,
    visits: from.visits,
    offset: from.offset,
    plan: from.plan,
    createdMicros: anew(from.createdMicros),
    color: from.color,
    country: text(from.country),
    city: text(from.city),
    ratio: from.ratio,
    verified: from.verified,
    age: from.age,
    language: text(from.language),
    latitude: from.latitude,
    longitude: from.longitude,
    flags: from.flags,
    balance: from.balance,
    avatarHash: from.avatarHash.slice(),
    phone: text(from.phone),
    newsletter: from.newsletter,
    session: anew(from.session),
    nickname: text(from.nickname!),
    referrer: from.referrer,
    contact:
      from.contact.case === "messenger"
        ? { case: "messenger", value: text(from.contact.value) }
        : { case: "extension", value: from.contact.value },
    tags: list(from.tags, text),
    scores: list(from.scores, same),
  };
}

/** A message as these literals want it. */
export function patternOf(value: unknown, key = ""): unknown {
  if (typeof value === "string") return key === "$typeName" || key === "case" ? value : Buffer.from(value);
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map((item) => patternOf(item));
  const entries = Object.entries(value);
  if (key === "labels") return entries.map(([name, label]) => [Buffer.from(name), Buffer.from(label as string)]);
  return Object.fromEntries(entries.map(([name, item]) => [name, patternOf(item, name)]));
}

function text(bytes: Buffer): string {
  return bytes.toString("utf8");
}

function anew(value: bigint): bigint {
  return -value;
}

function same(value: number): number {
  return value;
}

function list<T, R>(from: readonly T[], item: (value: T) => R): R[] {
  const made: R[] = [];
  for (let i = 0; i < from.length; i++) made.push(item(from[i]));
  return made;
}

function record(from: readonly [Buffer, Buffer][]): Record<string, string> {
  const made: Record<string, string> = {};
  for (let i = 0; i < from.length; i++) made[text(from[i][0])] = text(from[i][1]);
  return made;
}
