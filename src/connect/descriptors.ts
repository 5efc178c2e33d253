/** Symbols on descriptors of methods and messages that protobuf-es did not generate. */
import type { DescMethod } from "@bufbuild/protobuf";

/** Key of a codec on a message's descriptor, for messages that are not protobuf-es's. */
export const OWN_CODEC = Symbol("isthmus.codec");

/** Key of a path on a method's descriptor, for paths that are not made of the names of service and method. */
export const OWN_PATH = Symbol("isthmus.path");

/** The method's path: "/package.Service/Method" unless its descriptor has a path of its own. */
export function methodPath(method: DescMethod): string {
  return (method as { [OWN_PATH]?: string })[OWN_PATH] ?? `/${method.parent.typeName}/${method.name}`;
}
