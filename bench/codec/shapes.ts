/**
 * The messages that are measured, and what is read of each after it was decoded. What is read is the same for all
 * contestants: little enough not to be what is measured, and of packed doubles everything, so that nobody gains by
 * putting work off.
 */
import { create, ScalarType, type DescMessage, type Message, type MessageInitShape } from "@bufbuild/protobuf";
import {
  BlobSchema,
  DoublesSchema,
  IdsSchema,
  IntegersSchema,
  Level,
  LogBatchSchema,
  LogRecordSchema,
  MapsSchema,
  MixedSchema,
  OrderSchema,
  Plan,
  SmallSchema,
  StringsSchema,
} from "../proto/shapes_pb.js";
import { Values } from "./values.js";

export const shapeNames = [
  "small",
  "mixed",
  "nested",
  "strings",
  "doubles",
  "integers",
  "maps",
  "log",
  "logs",
  "blob",
  "ids",
] as const;
export type ShapeName = (typeof shapeNames)[number];

export interface Shape {
  readonly name: ShapeName;
  readonly title: string;
  readonly schema: DescMessage;
  /** There are `bytes` fields, so that it matters whether they are copies. */
  readonly hasBytes: boolean;
  /** Different ones, which take turns; their number is a power of two. */
  readonly messages: () => Message[];
  /**
   * For codecs whose `bytes` fields are parts of the input: makes copies of them. Absent if there are so many that it
   * is faster to copy the whole input before.
   */
  readonly detach?: (message: never, copy: (bytes: Uint8Array) => Uint8Array) => void;
  /** Reads a few fields of a decoded message of whatever contestant. @returns a small integer */
  readonly consume: (message: never) => number;
}

const blobBytes = 1 << 20;

export const shapes: readonly Shape[] = [
  shape("small", "3 small fields", SmallSchema, 16, small, (m: { id: number; name: string; active: boolean }) =>
    m.active ? m.id & 255 : m.name.length,
  ),
  shape(
    "mixed",
    "30 mixed fields",
    MixedSchema,
    16,
    mixed,
    (m: { id: number; phone: string; scores: number[] }) => (m.id & 255) + m.phone.length + m.scores.length,
    (m: { avatarHash: Uint8Array }, copy) => {
      m.avatarHash = copy(m.avatarHash);
    },
  ),
  shape(
    "nested",
    "nested 4 deep",
    OrderSchema,
    16,
    order,
    (m: { customer?: { name: string; address?: { position?: { latitude: number } } } }) =>
      m.customer!.name.length + (m.customer!.address!.position!.latitude > 0 ? 1 : 0),
  ),
  shape(
    "strings",
    "1 000 strings",
    StringsSchema,
    4,
    (values) => ({ items: Array.from({ length: 1_000 }, () => values.text(5 + values.int(30))) }),
    (m: { items: string[] }) => {
      let sum = 0;
      for (const item of m.items) sum += item.length;
      return sum;
    },
  ),
  shape(
    "doubles",
    "10 000 packed doubles",
    DoublesSchema,
    4,
    (values) => ({ values: Array.from({ length: 10_000 }, () => values.double(1_000)) }),
    sumOfValues,
  ),
  shape(
    "integers",
    "10 000 packed int32",
    IntegersSchema,
    4,
    (values) => ({
      values: Array.from({ length: 10_000 }, () => (values.chance(0.02) ? -values.count() : values.count())),
    }),
    sumOfValues,
  ),
  shape(
    "maps",
    "maps, 3 of 12 entries",
    MapsSchema,
    8,
    maps,
    (m: { labels: Record<string, string>; counters: Record<string, number> }) =>
      m.labels["key-1"].length + (m.counters["count-2"] & 255),
  ),
  shape(
    "log",
    "log record",
    LogRecordSchema,
    16,
    logRecord,
    consumeLog,
    (m: { traceId: Uint8Array; spanId: Uint8Array }, copy) => {
      m.traceId = copy(m.traceId);
      m.spanId = copy(m.spanId);
    },
  ),
  shape(
    "logs",
    "100 log records",
    LogBatchSchema,
    4,
    (values) => ({ records: Array.from({ length: 100 }, () => logRecord(values)) }),
    (m: { records: LogLike[] }) => {
      let sum = 0;
      for (const record of m.records) sum += consumeLog(record);
      return sum;
    },
  ),
  shape(
    "blob",
    "1 MiB of bytes",
    BlobSchema,
    4,
    (values) => ({ name: values.name(), data: blob(values) }),
    (m: { data: Uint8Array }) => m.data.length + m.data[m.data.length - 1],
    (m: { data: Uint8Array }, copy) => {
      m.data = copy(m.data);
    },
  ),
  shape(
    "ids",
    "64-bit ids",
    IdsSchema,
    16,
    ids,
    (m: { account: unknown; amount: unknown; related: unknown[] }) =>
      (m.account ? 1 : 0) + (m.amount ? 1 : 0) + m.related.length,
  ),
];

export function shapeNamed(name: string): Shape {
  const found = shapes.find((one) => one.name === name);
  if (found === undefined) throw new Error(`there is no shape ${name}`);
  return found;
}

function shape<D extends DescMessage>(
  name: ShapeName,
  title: string,
  schema: D,
  instances: number,
  make: (values: Values) => MessageInitShape<D>,
  consume: Shape["consume"],
  detach?: NonNullable<Shape["detach"]>,
): Shape {
  const messages = (): Message[] => {
    const values = new Values(shapeNames.indexOf(name) + 1);
    return Array.from({ length: instances }, () => create(schema, make(values)));
  };
  return {
    name,
    title,
    schema,
    hasBytes: containsBytes(schema),
    messages,
    consume,
    ...(detach === undefined ? {} : { detach }),
  };
}

function containsBytes(schema: DescMessage): boolean {
  return schema.fields.some((field) =>
    field.message !== undefined
      ? containsBytes(field.message)
      : field.fieldKind !== "enum" && field.scalar === ScalarType.BYTES,
  );
}

function small(values: Values): MessageInitShape<typeof SmallSchema> {
  return { id: values.count(), name: values.name(), active: values.chance(0.5) };
}

function mixed(values: Values): MessageInitShape<typeof MixedSchema> {
  return {
    id: values.count(),
    name: values.name(),
    email: `${values.word()}@example.com`,
    active: values.chance(0.8),
    score: values.double(100),
    visits: values.count(),
    offset: values.count() - 1_000,
    plan: values.pick([Plan.FREE, Plan.TEAM, Plan.COMPANY]),
    createdMicros: 1_700_000_000_000_000n + BigInt(values.int(2 ** 32)),
    color: values.int(2 ** 24),
    country: "DE",
    city: values.word(),
    ratio: values.int(256) / 256,
    verified: values.chance(0.5),
    age: values.int(90),
    language: values.pick(["de", "en", "fr-CA"]),
    latitude: values.double(90),
    longitude: values.double(180),
    flags: values.int(2 ** 10),
    balance: values.count() - 5_000,
    avatarHash: values.bytes(20),
    phone: `+49 ${values.digits(9)}`,
    newsletter: values.chance(0.3),
    session: values.id(),
    nickname: values.word(),
    referrer: values.count(),
    contact: values.chance(0.5)
      ? { case: "messenger", value: values.word() }
      : { case: "extension", value: values.count() },
    tags: Array.from({ length: 1 + values.int(4) }, () => values.word()),
    scores: Array.from({ length: 1 + values.int(8) }, () => values.count()),
  };
}

function order(values: Values): MessageInitShape<typeof OrderSchema> {
  const position = { latitude: values.double(90), longitude: values.double(180) };
  const address = {
    street: `${values.text(12)} ${values.int(200)}`,
    city: values.word(),
    zip: values.digits(5),
    position,
  };
  return {
    id: values.count(),
    customer: { name: values.name(), email: `${values.word()}@example.com`, address },
    note: values.text(40),
  };
}

function maps(values: Values): MessageInitShape<typeof MapsSchema> {
  const entries = <T>(prefix: string, value: () => T): Record<string, T> =>
    Object.fromEntries(
      Array.from({ length: 12 }, (_, i) => [`${prefix}${i < 4 ? i : values.word() + String(i)}`, value()]),
    );
  const quotas = Object.fromEntries(
    Array.from({ length: 12 }, (_, i) => [i * 100 + values.int(100), values.double(10)]),
  );
  return { labels: entries("key-", () => values.text(15)), counters: entries("count-", () => values.count()), quotas };
}

function logRecord(values: Values): MessageInitShape<typeof LogRecordSchema> {
  const labels: Record<string, string> = {
    region: values.region(),
    host: `node-${values.int(64)}`,
    version: `1.${values.int(30)}.${values.int(9)}`,
  };
  if (values.chance(0.5)) labels["pod"] = `pod-${values.digits(6)}`;
  if (values.chance(0.3)) labels["tenant"] = values.word();
  return {
    timeUnixNano: 1_700_000_000_000_000_000n + values.id() / 1_000n,
    level: values.pick([Level.DEBUG, Level.INFO, Level.INFO, Level.WARN, Level.ERROR]),
    service: values.service(),
    message: values.text(115),
    labels,
    traceId: values.bytes(16),
    spanId: values.bytes(8),
    line: values.int(2_000),
    status: values.pick([200, 200, 204, 404, 500]),
    durationMs: values.double(300),
  };
}

function ids(values: Values): MessageInitShape<typeof IdsSchema> {
  return {
    account: values.id(),
    transaction: values.id() * 2n + 1n,
    amount: BigInt(values.count()) - 1_000n,
    session: values.id(),
    parent: BigInt(values.count()),
    related: Array.from({ length: 5 }, () => values.id()),
  };
}

/** Faster than byte by byte: the same 4 KiB again and again, with a number at the end. */
function blob(values: Values): Uint8Array {
  const some = values.bytes(4_096);
  const data = new Uint8Array(blobBytes);
  for (let at = 0; at < blobBytes; at += some.length) data.set(some, at);
  data[blobBytes - 1] = values.int(256);
  return data;
}

function sumOfValues(message: { values: ArrayLike<number> }): number {
  const { values } = message;
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum > 0 ? 1 : 0;
}

interface LogLike {
  message: string;
  labels: Record<string, string>;
  traceId: Uint8Array;
  line: number;
}

function consumeLog(message: LogLike): number {
  return message.message.length + message.labels["region"].length + message.traceId[0] + message.line;
}
