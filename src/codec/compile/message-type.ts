/**
 * A message type as the codec works with it: one object per descriptor, whose functions are compiled on first use, each
 * direction for itself. Generated code where that is allowed; else, with the same results, closures.
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
  /** Bytes of the message, its spans counted. Stores the lengths of nested parts in `W.memo`. */
  size: (message: Values) => number;
  /**
   * Writes the message. Returns where it ends, or −1 if that is past `limit` (WRITE-1). If `W.sized`, takes the lengths
   * of nested parts from `W.memo`, where `size` has put them; else sizes each before it is written.
   */
  write: (message: Values, b: Uint8Array, p: number, limit: number) => number;
}

/** Makes and fills messages of one type. */
export interface MessageReader {
  /** A message with no field set. */
  create: () => Values;
  /**
   * Merges the fields in [p, end) into a message. Returns where it stopped, which is past `end` if the last field
   * reaches there.
   */
  read: (message: Values, b: Uint8Array, p: number, end: number) => number;
}

export interface MessageType extends MessageWriter, MessageReader {
  readonly desc: DescMessage;
}

/** Finds the type of a descriptor. */
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
