/**
 * The codec's form of a message type: one object per descriptor, whose functions are compiled on first use, each
 * direction for itself. They are generated code where that is allowed, else closures with the same results.
 */
import type { DescMessage } from "@bufbuild/protobuf";
import type { Values } from "../wire/fields.js";
import { mayGenerate } from "./generate.js";
import { generateReader } from "./generate-read.js";
import { generateWriter } from "./generate-write.js";
import { closureReader } from "./closure-read.js";
import { closureWriter } from "./closure-write.js";

/** Sizes and writes messages of one type. */
export interface MessageWriter {
  /** The bytes of the message, spans included. Stores the lengths of nested parts in `W.memo`. */
  size: (message: Values) => number;
  /**
   * Writes the message. Returns the position after it, or −1 if that is past `limit` (WRITE-1). If `W.sized`, it takes
   * the lengths of nested parts from `W.memo`, where `size` has put them; otherwise it sizes each part before writing
   * it.
   */
  write: (message: Values, b: Uint8Array, p: number, limit: number) => number;
}

/** Makes and fills messages of one type. */
export interface MessageReader {
  /** Creates a message with no field set. */
  create: () => Values;
  /**
   * Merges the fields in [p, end) into a message. Returns the position after the last field, which may be past `end`.
   */
  read: (message: Values, b: Uint8Array, p: number, end: number) => number;
}

export interface MessageType extends MessageWriter, MessageReader {
  readonly desc: DescMessage;
}

/** Finds the type for a descriptor. */
export type Resolve = (desc: DescMessage) => MessageType;

const types = new WeakMap<DescMessage, MessageType>();

export function messageType(desc: DescMessage): MessageType {
  let type = types.get(desc);
  if (type === undefined) {
    type = mayGenerate() ? lazyType(desc, generateWriter, generateReader, messageType) : closureType(desc);
    types.set(desc, type);
  }
  return type;
}

const closureTypes = new WeakMap<DescMessage, MessageType>();

/** The type without generated code. */
export function closureType(desc: DescMessage): MessageType {
  let type = closureTypes.get(desc);
  if (type === undefined) {
    type = lazyType(desc, closureWriter, closureReader, closureType);
    closureTypes.set(desc, type);
  }
  return type;
}

function lazyType(
  desc: DescMessage,
  makeWriter: (desc: DescMessage, resolve: Resolve) => MessageWriter,
  makeReader: (desc: DescMessage, resolve: Resolve) => MessageReader,
  resolve: Resolve,
): MessageType {
  const compileWriter = () => Object.assign(type, makeWriter(desc, resolve));
  const compileReader = () => Object.assign(type, makeReader(desc, resolve));
  const type: MessageType = {
    desc,
    size: (message) => compileWriter().size(message),
    write: (message, b, p, limit) => compileWriter().write(message, b, p, limit),
    create: () => compileReader().create(),
    read: (message, b, p, end) => compileReader().read(message, b, p, end),
  };
  return type;
}
