/**
 * Headers and trailers on the wire: a sequence of entries `nameLength u16 · name · valueLength u32 · value`, with one
 * byte per character, because header names and values are byte strings.
 */
import { METADATA_BYTES_MAX } from "./frame.js";

export function encodeMetadata(headers: Headers): Uint8Array {
  let byteLength = 0;
  headers.forEach((value, name) => {
    byteLength += entryBytes(name, value);
  });
  const bytes = Buffer.allocUnsafe(byteLength);
  let at = 0;
  headers.forEach((value, name) => {
    at = writeEntry(bytes, at, name, value);
  });
  return bytes;
}

/**
 * Calls `visit` for each entry of `bytes`, which must be private memory.
 * @returns undefined, or what is wrong with the bytes
 */
export function readMetadata(bytes: Uint8Array, visit: (name: string, value: string) => void): string | undefined {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  while (at < view.length) {
    if (at + 2 > view.length) return "a header name's length is cut off";
    const nameEnd = at + 2 + view.readUInt16LE(at);
    if (nameEnd + 4 > view.length) return "a header name is cut off";
    const valueEnd = nameEnd + 4 + view.readUInt32LE(nameEnd);
    if (valueEnd > view.length) return "a header value is cut off";
    visit(view.toString("latin1", at + 2, nameEnd), view.toString("latin1", nameEnd + 4, valueEnd));
    at = valueEnd;
  }
  return undefined;
}

/** Reads `bytes` into a `Headers`; entries that are not valid headers are left out. */
export function decodeHeaders(bytes: Uint8Array | undefined): Headers {
  const headers = new Headers();
  if (bytes === undefined || bytes.length === 0) return headers;
  readMetadata(bytes, (name, value) => {
    try {
      headers.append(name, value);
    } catch {
      // A `Headers` cannot hold this entry, so the user cannot get it.
    }
  });
  return headers;
}

/** What is wrong with metadata of this size; undefined if it can be sent. */
export function metadataComplaint(byteLength: number): string | undefined {
  if (byteLength <= METADATA_BYTES_MAX) return undefined;
  return `headers of ${byteLength} bytes are larger than the limit of ${METADATA_BYTES_MAX}; send large data in the message`;
}

function entryBytes(name: string, value: string): number {
  return 6 + name.length + value.length;
}

function writeEntry(bytes: Buffer, at: number, name: string, value: string): number {
  bytes.writeUInt16LE(name.length, at);
  bytes.write(name, at + 2, "latin1");
  bytes.writeUInt32LE(value.length, at + 2 + name.length);
  bytes.write(value, at + 6 + name.length, "latin1");
  return at + 6 + name.length + value.length;
}
