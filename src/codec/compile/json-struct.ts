/** Converts google.protobuf.Struct fields, which are JSON objects in a message and Struct messages on the wire. */
import type { Values } from "../wire/fields.js";
import { setOwn } from "../wire/fields.js";

interface JsonValue extends Values {
  kind: { case: string; value: unknown } | { case: undefined };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** The Struct message for a JSON object. Values that are not JSON are left unset, like in protobuf-es. */
export function structOf(json: unknown): Values {
  const fields: Record<string, unknown> = {};
  if (isObject(json)) for (const key of Object.keys(json)) setOwn(fields, key, valueOf(json[key]));
  return { $typeName: "google.protobuf.Struct", fields };
}

function valueOf(json: unknown): JsonValue {
  return { $typeName: "google.protobuf.Value", kind: kindOf(json) };
}

function kindOf(json: unknown): JsonValue["kind"] {
  switch (typeof json) {
    case "number":
      return { case: "numberValue", value: json };
    case "string":
      return { case: "stringValue", value: json };
    case "boolean":
      return { case: "boolValue", value: json };
    case "object":
      if (json === null) return { case: "nullValue", value: 0 };
      if (Array.isArray(json))
        return {
          case: "listValue",
          value: { $typeName: "google.protobuf.ListValue", values: Array.from(json, valueOf) },
        };
      return { case: "structValue", value: structOf(json) };
    default:
      return { case: undefined };
  }
}

/** The JSON object for a Struct message. */
export function jsonOf(struct: Values): Record<string, unknown> {
  const json: Record<string, unknown> = {};
  const fields = struct.fields as Record<string, JsonValue>;
  for (const key of Object.keys(fields)) setOwn(json, key, jsonValueOf(fields[key]));
  return json;
}

function jsonValueOf({ kind }: JsonValue): unknown {
  switch (kind.case) {
    case "structValue":
      return jsonOf(kind.value as Values);
    case "listValue":
      return (kind.value as { values: JsonValue[] }).values.map(jsonValueOf);
    case "nullValue":
    case undefined:
      return null;
    default:
      return kind.value;
  }
}
