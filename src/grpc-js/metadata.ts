/**
 * Converts between grpc-js's metadata and Connect's headers. Binary values (keys that end in "-bin") are Base64 in
 * headers. Entries that the other side cannot represent are left out, as grpc-js does with invalid headers. Nothing
 * here throws.
 */
import { Metadata } from "@grpc/grpc-js";

export function toHeaders(metadata: Metadata): Headers {
  const headers = new Headers();
  for (const [name, values] of Object.entries(metadata.toHttp2Headers())) {
    for (const value of Array.isArray(values) ? values : [values])
      if (value !== undefined) append(headers, name, String(value));
  }
  return headers;
}

export function toMetadata(headers: Headers | undefined): Metadata {
  const metadata = new Metadata();
  headers?.forEach((joined, name) => {
    if (!name.endsWith("-bin")) return add(metadata, name, joined);
    for (const value of joined.split(",")) add(metadata, name, Buffer.from(value.trim(), "base64"));
  });
  return metadata;
}

/**
 * Metadata from a handler: `Metadata`, also of another copy of grpc-js, or `Headers`. Undefined if there is none; null
 * if it is something else.
 */
export function givenHeaders(given: unknown): Headers | null | undefined {
  if (given === undefined || given === null) return undefined;
  try {
    if (given instanceof Headers) return given;
    return typeof (given as Partial<Metadata>).toHttp2Headers === "function" ? toHeaders(given as Metadata) : null;
  } catch {
    return null;
  }
}

export function addTo(headers: Headers, added: Headers): void {
  added.forEach((value, name) => append(headers, name, value));
}

function append(headers: Headers, name: string, value: string): void {
  try {
    headers.append(name, value);
  } catch {
    // A name that headers cannot have, such as one with a colon.
  }
}

function add(metadata: Metadata, name: string, value: string | Buffer): void {
  try {
    metadata.add(name, value);
  } catch {
    // Metadata allows fewer characters in names than headers do, and only printable ASCII in text.
  }
}
