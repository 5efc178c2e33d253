/**
 * Large values on their way to HTTP: Connect's transports and handlers turn messages into bytes themselves, so whatever they must not read where
 * it lies is replaced before they see the message.
 *
 * The rules are those of the other carriers: a loan is its user's no more, a file is sent as it is then and none of its mapped pages is
 * read (FILE-1), bytes whose memory is gone are an error, and bytes that end with a call are copied at once. The user's message stays as it is: what
 * changes, changes in a copy of the messages on the way to it.
 */
import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import type { Interceptor, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { hasOwn, labelOf } from "../codec/fields.js";
import type { FixedArray } from "../codec/packed.js";
import { requireAttached } from "../codec/write.js";
import { isFleeting, isPoisoned } from "../memory/lease.js";
import { Loan } from "../memory/loan.js";
import { MappedFile } from "../memory/mapped-file.js";
import { originOf, originsSeen } from "../memory/origin.js";
import { serializeError } from "../rpc/errors.js";

type Values = Record<string, unknown>;

/**
 * The message with all bytes in ordinary memory: itself if they are already.
 * @param why what becomes of loans, to be read after "its memory is gone: "
 * @param signal gives up reading files
 * @throws ConnectError
 */
export function ownPayloads<M extends Message>(schema: DescMessage, message: M, why: string, signal: AbortSignal): M | Promise<M> {
  if (!originsSeen || !reachesBytes(schema)) return message;
  const walk = new Walk(why, signal);
  try {
    const owned = walk.message(schema, message) as unknown as M;
    if (walk.reads.length === 0) return owned;
    return Promise.all(walk.reads).then(
      () => owned,
      (error: unknown) => Promise.reject(serializeError(error)),
    );
  } catch (error) {
    throw serializeError(error);
  }
}

/** `ownPayloads` for every message of a stream. */
export async function* ownPayloadsOfAll<M extends Message>(schema: DescMessage, messages: AsyncIterable<M>, why: string, signal: AbortSignal): AsyncGenerator<M> {
  for await (const message of messages) yield await ownPayloads(schema, message, why, signal);
}

/** For servers, outermost: what handlers answer, after all other interceptors. */
export const ownResponses: Interceptor = (next) => async (request) => {
  const response = await next(request);
  const { output, parent, name } = request.method;
  const why = `it was sent as the answer of /${parent.typeName}/${name}`;
  if (response.stream) {
    if (!reachesBytes(output)) return response;
    return { ...response, message: ownPayloadsOfAll(output, response.message, why, request.signal) };
  }
  const message = ownPayloads(output, response.message, why, (request as UnaryRequest).signal);
  return message === response.message ? response : ({ ...response, message: await message } satisfies UnaryResponse);
};

/** Whether messages of a type can have bytes, or packed values of fixed width, in any depth. */
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

const FIXED = new Set<ScalarType | undefined>([ScalarType.DOUBLE, ScalarType.FLOAT, ScalarType.FIXED32, ScalarType.SFIXED32, ScalarType.FIXED64, ScalarType.SFIXED64]);

/** Any field whose value, or one of whose values, may be bytes or a typed array. */
function hasBytes(field: DescField): boolean {
  return field.scalar === ScalarType.BYTES || (field.fieldKind === "list" && FIXED.has(field.scalar));
}

/** One message, with what was taken for it. */
class Walk {
  readonly reads: Promise<void>[] = [];
  private readonly why: string;
  private readonly signal: AbortSignal;
  /** Memory of loans that were taken, by what their users see. */
  private readonly taken = new Map<ArrayBufferLike, Uint8Array>();

  constructor(why: string, signal: AbortSignal) {
    this.why = why;
    this.signal = signal;
  }

  message(desc: DescMessage, message: Values): Values {
    let copy: Values | undefined;
    for (const member of desc.members) {
      if (member.kind === "oneof") {
        const chosen = message[member.localName] as { case: string | undefined; value?: unknown } | undefined;
        const field = chosen?.case === undefined ? undefined : member.fields.find(({ localName }) => localName === chosen.case);
        if (field === undefined || !mayHold(field)) continue;
        const value = this.value(field, chosen!.value);
        if (value !== chosen!.value) (copy ??= copyOf(message))[member.localName] = { ...chosen, value };
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
        if (owned !== old) (copy ??= { ...map })[key] = owned;
      }
      return copy ?? map;
    }
    return this.value(field, value);
  }

  private value(field: DescField, value: unknown): unknown {
    if (value instanceof Uint8Array) return this.bytes(field, value);
    if (field.message === undefined || typeof value !== "object" || value === null || !("$typeName" in value)) return value;
    return this.message(field.message, value);
  }

  private typedArray(field: DescField, array: FixedArray): FixedArray {
    if (array.length === 0) {
      requireAttached(array, labelOf(field));
      return array;
    }
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const owned = this.bytes(field, bytes);
    if (owned === bytes) return array;
    const aligned = owned.byteOffset % array.BYTES_PER_ELEMENT === 0 ? owned : owned.slice();
    const ArrayType = array.constructor as new (buffer: ArrayBufferLike, byteOffset: number, length: number) => FixedArray;
    return new ArrayType(aligned.buffer, aligned.byteOffset, array.length);
  }

  private bytes(field: DescField, bytes: Uint8Array): Uint8Array {
    // Any use of these says why by itself.
    if (isPoisoned(bytes)) return bytes.subarray();
    const before = this.taken.get(bytes.buffer);
    if (before !== undefined) return before.subarray(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    if (bytes.length === 0) {
      requireAttached(bytes, labelOf(field));
      return bytes;
    }
    const origin = originOf(bytes);
    if (origin instanceof Loan) return this.loan(origin, bytes);
    if (origin instanceof MappedFile) return this.file(origin, bytes);
    return isFleeting(bytes) ? bytes.slice() : bytes;
  }

  private loan(loan: Loan, bytes: Uint8Array): Uint8Array {
    const { buffer, byteOffset, byteLength } = bytes;
    const { bytes: memory, done } = loan.takeToCopy(buffer as ArrayBuffer, this.why);
    // A block is somebody else's when this returns.
    const own = loan.home === undefined ? memory : memory.slice();
    done();
    this.taken.set(buffer, own);
    return own.subarray(byteOffset, byteOffset + byteLength);
  }

  private file(file: MappedFile, { byteOffset, byteLength }: Uint8Array): Uint8Array {
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
    // Another may fail first.
    read.catch(() => undefined);
    this.reads.push(read);
    return target;
  }
}

function mayHold(field: DescField): boolean {
  return hasBytes(field) || (field.message !== undefined && reachesBytes(field.message));
}

/** With the prototype, in which proto2 keeps what is not set. */
function copyOf(message: Values): Values {
  return Object.assign(Object.create(Object.getPrototypeOf(message) as object) as Values, message);
}
