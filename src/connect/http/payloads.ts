/**
 * Large values on their way to HTTP. Connect's transports and handlers encode messages themselves, so bytes that they
 * must not read in place are replaced before they see the message.
 *
 * The rules are those of other carriers: a loan is taken, a file is sent as it is then without reading its mapped pages
 * (FILE-1), bytes whose memory is gone are an error, and bytes that end with a call are copied at once. The user's
 * message stays as it is: changes are made to a copy of the messages on the path to the value.
 */
import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import type { Interceptor, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { hasOwn, labelOf, setOwn } from "../../codec/wire/fields.js";
import type { FixedArray } from "../../codec/wire/packed.js";
import { requireAttached } from "../../codec/wire/write.js";
import { isEphemeral, isPoisoned } from "../../memory/payload/message-leases.js";
import { Loan } from "../../memory/payload/loan.js";
import { MappedFile } from "../../memory/payload/mapped-file.js";
import { originOf, originsSeen, ephemeral } from "../../memory/payload/origin.js";
import type { MessageRole } from "../../rpc/errors.js";
import { serializeError } from "../../rpc/errors.js";

type Values = Record<string, unknown>;

/**
 * The message with all bytes in ordinary memory; the message itself if they are there already.
 * @param role of the message, which appears in errors together with the method's path
 * @param signal cancels the reading of files
 * @throws ConnectError
 */
export function ownPayloads<M extends Message>(
  schema: DescMessage,
  message: M,
  role: MessageRole,
  path: string,
  signal: AbortSignal,
): M | Promise<M> {
  if (!originsSeen || !reachesBytes(schema)) return message;
  // Follows "its memory is gone: " in errors.
  const why = role === "request" ? `it was sent with the call ${path}` : `it was sent as the answer of ${path}`;
  const walk = new Walk(why, signal);
  try {
    walk.findLoans(schema, message);
    const owned = walk.message(schema, message) as unknown as M;
    if (walk.reads.length === 0) return owned;
    return Promise.all(walk.reads).then(
      () => owned,
      (error: unknown) => Promise.reject(serializeError(error, role, path)),
    );
  } catch (error) {
    throw serializeError(error, role, path);
  }
}

/** Applies `ownPayloads` to every message of a stream. */
export async function* ownPayloadsOfAll<M extends Message>(
  schema: DescMessage,
  messages: AsyncIterable<M>,
  role: MessageRole,
  path: string,
  signal: AbortSignal,
): AsyncGenerator<M> {
  for await (const message of messages) yield await ownPayloads(schema, message, role, path, signal);
}

/** For servers: processes the responses of handlers after all other interceptors. */
export const ownResponses: Interceptor = (next) => async (request) => {
  const response = await next(request);
  const { output, parent, name } = request.method;
  const path = `/${parent.typeName}/${name}`;
  if (response.stream) {
    if (!reachesBytes(output)) return response;
    return { ...response, message: ownPayloadsOfAll(output, response.message, "response", path, request.signal) };
  }
  const message = ownPayloads(output, response.message, "response", path, (request as UnaryRequest).signal);
  return message === response.message ? response : ({ ...response, message: await message } satisfies UnaryResponse);
};

/** Whether messages of a type can contain bytes, or packed values of fixed width, at any depth. */
const reaches = new WeakMap<DescMessage, boolean>();

function reachesBytes(schema: DescMessage): boolean {
  const known = reaches.get(schema);
  if (known !== undefined) return known;
  const seen = new Set([schema]);
  let found = false;
  for (const desc of seen) {
    found ||= desc.fields.some(hasBytes);
    for (const { message } of desc.fields) if (message !== undefined) seen.add(message);
  }
  reaches.set(schema, found);
  return found;
}

const FIXED = new Set<ScalarType | undefined>([
  ScalarType.DOUBLE,
  ScalarType.FLOAT,
  ScalarType.FIXED32,
  ScalarType.SFIXED32,
  ScalarType.FIXED64,
  ScalarType.SFIXED64,
]);

/** Whether a value of the field may be bytes or a typed array. */
function hasBytes(field: DescField): boolean {
  return field.scalar === ScalarType.BYTES || (field.fieldKind === "list" && FIXED.has(field.scalar));
}

interface Place {
  readonly loan: Loan;
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** Walks through one message, and collects what it takes for it. */
class Walk {
  readonly reads: Promise<void>[] = [];
  private readonly why: string;
  private readonly signal: AbortSignal;
  /** The memory of loans that were taken, by the user's buffer. */
  private readonly taken = new Map<ArrayBufferLike, Uint8Array>();
  /** Where each loaned value was: taking a loan empties all views of it. */
  private readonly places = new Map<ArrayBufferView, Place>();
  private finding = false;

  constructor(why: string, signal: AbortSignal) {
    this.why = why;
    this.signal = signal;
  }

  /** Must be called first. */
  findLoans(desc: DescMessage, message: Values): void {
    if (ephemeral.count === 0) return;
    this.finding = true;
    this.message(desc, message);
    this.finding = false;
  }

  message(desc: DescMessage, message: Values): Values {
    let copy: Values | undefined;
    for (const member of desc.members) {
      if (member.kind === "oneof") {
        const chosen = message[member.localName] as { case: string | undefined; value?: unknown } | undefined;
        if (chosen?.case === undefined) continue;
        const field = member.fields.find(({ localName }) => localName === chosen.case);
        if (field === undefined || !mayHold(field)) continue;
        const value = this.value(field, chosen.value);
        if (value !== chosen.value) (copy ??= copyOf(message))[member.localName] = { ...chosen, value };
        continue;
      }
      // An unset field of proto2 is in the prototype.
      if (!mayHold(member) || !hasOwn(message, member.localName)) continue;
      const old = message[member.localName];
      const value = this.field(member, old);
      if (value !== old) (copy ??= copyOf(message))[member.localName] = value;
    }
    return copy ?? message;
  }

  private field(field: DescField, value: unknown): unknown {
    if (value === undefined || value === null) return value;
    if (field.fieldKind === "list") {
      if (ArrayBuffer.isView(value)) return this.typedArray(field, value as FixedArray);
      if (FIXED.has(field.scalar)) return value;
      const list = value as readonly unknown[];
      let copy: unknown[] | undefined;
      for (let i = 0; i < list.length; i++) {
        const owned = this.value(field, list[i]);
        if (owned !== list[i]) (copy ??= [...list])[i] = owned;
      }
      return copy ?? list;
    }
    if (field.fieldKind === "map") {
      const map = value as Values;
      let copy: Values | undefined;
      for (const [key, old] of Object.entries(map)) {
        const owned = this.value(field, old);
        if (owned !== old) setOwn((copy ??= { ...map }), key, owned);
      }
      return copy ?? map;
    }
    return this.value(field, value);
  }

  private value(field: DescField, value: unknown): unknown {
    if (value instanceof Uint8Array) return this.bytes(field, value) ?? value;
    if (field.message === undefined || typeof value !== "object" || value === null || !("$typeName" in value))
      return value;
    return this.message(field.message, value);
  }

  private typedArray(field: DescField, array: FixedArray): FixedArray {
    const width = array.BYTES_PER_ELEMENT;
    const owned = this.bytes(field, array);
    if (owned === undefined) return array;
    const aligned = owned.byteOffset % width === 0 ? owned : owned.slice();
    const ArrayType = array.constructor as new (
      buffer: ArrayBufferLike,
      byteOffset: number,
      length: number,
    ) => FixedArray;
    return new ArrayType(aligned.buffer, aligned.byteOffset, aligned.length / width);
  }

  /** The bytes to send instead; undefined if these can be sent. */
  private bytes(field: DescField, bytes: Uint8Array | FixedArray): Uint8Array | undefined {
    // SUBTLE: any access throws the error that says why the memory is gone.
    if (isPoisoned(bytes)) return void bytes.length;
    const place = this.places.get(bytes);
    if (place !== undefined) return this.takeLoan(place);
    if (bytes.length === 0) {
      requireAttached(bytes, labelOf(field));
      return undefined;
    }
    const origin = originOf(bytes);
    const { buffer, byteOffset, byteLength } = bytes;
    if (this.finding) {
      if (origin instanceof Loan)
        this.places.set(bytes, { loan: origin, buffer: buffer as ArrayBuffer, byteOffset, byteLength });
      return undefined;
    }
    if (origin instanceof MappedFile) return this.readFile(origin, byteOffset, byteLength);
    return isEphemeral(bytes) ? new Uint8Array(buffer, byteOffset, byteLength).slice() : undefined;
  }

  private takeLoan({ loan, buffer, byteOffset, byteLength }: Place): Uint8Array {
    let own = this.taken.get(buffer);
    if (own === undefined) {
      const { bytes, done } = loan.takeToCopy(buffer, this.why);
      // Copied, because a block may have another owner when this returns.
      own = loan.home === undefined ? bytes : bytes.slice();
      done();
      this.taken.set(buffer, own);
    }
    return own.subarray(byteOffset, byteOffset + byteLength);
  }

  private readFile(file: MappedFile, byteOffset: number, byteLength: number): Uint8Array {
    const target = new Uint8Array(byteLength);
    const read = new Promise<void>((resolve, reject) => {
      file.readTo(
        target,
        byteOffset,
        byteLength,
        () => !this.signal.aborted,
        (error) => (error === undefined ? resolve() : reject(error)),
      );
    });
    // Another read may fail first.
    read.catch(() => undefined);
    this.reads.push(read);
    return target;
  }
}

function mayHold(field: DescField): boolean {
  return hasBytes(field) || (field.message !== undefined && reachesBytes(field.message));
}

/** Copies a message with its prototype, in which proto2 keeps unset fields. */
function copyOf(message: Values): Values {
  return Object.assign(Object.create(Object.getPrototypeOf(message) as object) as Values, message);
}
