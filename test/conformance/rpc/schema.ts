/**
 * The messages of Connect's conformance runner. Their descriptors are taken from the runner's sources when the tests
 * run; here stand only the shapes of what our programs touch.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { DescMessage, DescService, FileRegistry, Message, MessageInitShape } from "@bufbuild/protobuf";
import { create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import {
  AnySchema,
  anyPack,
  anyUnpack,
  FileDescriptorProtoSchema,
  FileDescriptorSetSchema,
  file_google_protobuf_any,
  file_google_protobuf_empty,
  file_google_protobuf_struct,
} from "@bufbuild/protobuf/wkt";
import type { Runner } from "./runner.js";

export interface Header {
  readonly name: string;
  readonly value: readonly string[];
}

/** An error of an RPC: asked for by a request, or met by a client. */
export interface RpcError {
  readonly code: number;
  readonly message?: string;
  readonly details: readonly Pick<Any, "typeUrl" | "value">[];
}

interface Credentials {
  readonly cert: Uint8Array;
  readonly key: Uint8Array;
}

export interface ServerCompatRequest {
  readonly useTls: boolean;
  readonly serverCreds?: Credentials;
  readonly clientTlsCert: Uint8Array;
  readonly messageReceiveLimit: number;
}

export interface ClientCompatRequest {
  readonly testName: string;
  readonly protocol: number;
  readonly compression: number;
  readonly host: string;
  readonly port: number;
  readonly serverTlsCert: Uint8Array;
  readonly clientTlsCreds?: Credentials;
  readonly messageReceiveLimit: number;
  readonly method?: string;
  readonly streamType: number;
  readonly requestHeaders: readonly Header[];
  readonly requestMessages: readonly Any[];
  readonly timeoutMs?: number;
  readonly requestDelayMs: number;
  readonly cancel?: { readonly cancelTiming: CancelTiming };
}

export type CancelTiming =
  | { readonly case: "beforeCloseSend" }
  | { readonly case: "afterCloseSendMs" | "afterNumResponses"; readonly value: number }
  | { readonly case: undefined };

/** Of the runner's `StreamType`. */
export const FULL_DUPLEX = 5;

export interface UnaryResponseDefinition {
  readonly responseHeaders: readonly Header[];
  readonly responseTrailers: readonly Header[];
  readonly responseDelayMs: number;
  readonly response:
    | { readonly case: "responseData"; readonly value: Uint8Array }
    | { readonly case: "error"; readonly value: RpcError }
    | { readonly case: undefined };
}

export interface StreamResponseDefinition {
  readonly responseHeaders: readonly Header[];
  readonly responseTrailers: readonly Header[];
  readonly responseDelayMs: number;
  readonly responseData: readonly Uint8Array[];
  readonly error?: RpcError;
}

export type UnaryRequest = Message & { readonly responseDefinition?: UnaryResponseDefinition };
export type StreamRequest = Message & { readonly responseDefinition?: StreamResponseDefinition };
export type BidiRequest = StreamRequest & { readonly fullDuplex: boolean };

/** Any of the responses. */
export type Response = Message & { readonly payload?: Message };

const PACKAGE = "connectrpc.conformance.v1";

export class Schema {
  readonly registry: FileRegistry;
  readonly service: DescService;

  /** @param path a serialized `FileDescriptorSet` */
  constructor(path: string) {
    this.registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(path)));
    const service = this.registry.getService(`${PACKAGE}.ConformanceService`);
    if (service === undefined) throw new Error(`${path} has no service ${PACKAGE}.ConformanceService`);
    this.service = service;
  }

  /** The type of this name within the runner's package. */
  type(name: string): DescMessage {
    const type = this.registry.getMessage(`${PACKAGE}.${name}`);
    if (type === undefined) throw new Error(`the descriptors have no message ${PACKAGE}.${name}`);
    return type;
  }

  typeOf({ $typeName }: Message): DescMessage {
    return this.registry.getMessage($typeName)!;
  }

  pack(message: Message): Any {
    return anyPack(this.typeOf(message), message);
  }

  unpack({ typeUrl, value }: Pick<Any, "typeUrl" | "value">): Message {
    const message = anyUnpack(create(AnySchema, { typeUrl, value }), this.registry);
    if (message === undefined) throw new Error(`the descriptors have no message for ${typeUrl}`);
    return message;
  }

  create(name: string, init: object): Message {
    return create(this.type(name), init as MessageInitShape<DescMessage>);
  }

  encode(name: string, init: object): Uint8Array {
    return toBinary(this.type(name), this.create(name, init));
  }

  decode<T>(name: string, bytes: Uint8Array): T {
    return fromBinary(this.type(name), bytes) as unknown as T;
  }
}

/**
 * Of the runner's messages, from the Go code that was generated from them, which has the descriptors as lists of bytes.
 */
export function descriptorSetOf({ sources }: Runner): Uint8Array {
  const own = ["config", "service", "client_compat", "server_compat"].map((name) => {
    const path = join(sources, "internal/gen/proto/go/connectrpc/conformance/v1", `${name}.pb.go`);
    const bytes =
      /_rawDesc = \[\]byte\{([^}]+)\}/.exec(readFileSync(path, "utf8"))?.[1].match(/0x[0-9a-f]{2}/g) ?? undefined;
    if (bytes === undefined) throw new Error(`${path} does not have the descriptor as a list of bytes`);
    return fromBinary(FileDescriptorProtoSchema, Uint8Array.from(bytes, Number));
  });
  const known = [file_google_protobuf_any, file_google_protobuf_empty, file_google_protobuf_struct].map(
    (file) => file.proto,
  );
  return toBinary(FileDescriptorSetSchema, create(FileDescriptorSetSchema, { file: [...known, ...own] }));
}
