/** Metadata of grpc-js and headers of Connect, either as the other. Binary values (keys that end in "-bin") are Base64 in headers. */
import { Metadata } from "@grpc/grpc-js";

export function toHeaders(metadata: Metadata): Headers {
  const headers = new Headers();
  for (const [name, values] of Object.entries(metadata.toHttp2Headers())) {
    for (const value of Array.isArray(values) ? values : [values]) if (value !== undefined) headers.append(name, String(value));
  }
  return headers;
}

export function toMetadata(headers: Headers | undefined): Metadata {
  const metadata = new Metadata();
  headers?.forEach((joined, name) => {
    if (!name.endsWith("-bin")) return metadata.add(name, joined);
    for (const value of joined.split(",")) metadata.add(name, Buffer.from(value.trim(), "base64"));
  });
  return metadata;
}

/** Adds what a handler of grpc-js sends to what Connect's context has. */
export function addTo(headers: Headers, metadata: Metadata | null | undefined): void {
  if (metadata !== null && metadata !== undefined) toHeaders(metadata).forEach((value, name) => headers.append(name, value));
}
