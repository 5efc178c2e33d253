/**
 * Metadata of grpc-js and headers of Connect, either as the other. Binary values (keys that end in "-bin") are Base64
 * in headers. What one side can hold and the other cannot is left out, as grpc-js does with headers that it cannot
 * take: nothing here throws.
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
 * What a handler gave as metadata: `Metadata`, also of another copy of grpc-js, or `Headers`. Undefined: none; null: it
 * is something else.
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
    // A name that no header can have, such as one with a colon.
  }
}

function add(metadata: Metadata, name: string, value: string | Buffer): void {
  try {
    metadata.add(name, value);
  } catch {
    // Metadata has fewer letters for names than headers have, and only printable ASCII in its text.
  }
}
