/**
 * gRPC's server reflection (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md): tells tools such as
 * grpcurl which services there are, and what their messages look like. Versions v1 and v1alpha have the same messages.
 */
import type { DescExtension, DescFile, DescService, MessageInitShape, Registry } from "@bufbuild/protobuf";
import { createRegistry, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import type {
  ServerReflectionRequest,
  ServerReflectionResponseSchema,
} from "./proto/grpc/reflection/v1/reflection_pb.js";

type Response = NonNullable<MessageInitShape<typeof ServerReflectionResponseSchema>["messageResponse"]>;

export class Reflection {
  private readonly names: readonly string[];
  private readonly files = new Map<string, DescFile>();
  private readonly bytes = new Map<DescFile, Uint8Array>();
  private known: Registry | undefined;

  constructor(services: Iterable<DescService>) {
    const all = [...services];
    this.names = all.map(({ typeName }) => typeName).sort();
    for (const { file } of all) this.add(file);
  }

  private add(file: DescFile): void {
    const name = file.proto.name;
    if (this.files.has(name)) return;
    this.files.set(name, file);
    for (const dependency of file.dependencies) this.add(dependency);
  }

  /** Answers the requests of one stream. */
  async *answer(requests: AsyncIterable<ServerReflectionRequest>) {
    const sent = new Set<DescFile>();
    for await (const request of requests)
      yield { validHost: request.host, originalRequest: request, messageResponse: this.respond(request, sent) };
  }

  private respond({ messageRequest }: ServerReflectionRequest, sent: Set<DescFile>): Response {
    switch (messageRequest.case) {
      case "listServices":
        return { case: "listServicesResponse", value: { service: this.names.map((name) => ({ name })) } };
      case "fileByFilename":
        return this.withFile(this.files.get(messageRequest.value), `file ${messageRequest.value}`, sent);
      case "fileContainingSymbol": {
        const symbol = messageRequest.value.replace(/^\./, "");
        return this.withFile(this.fileOf(symbol), `symbol ${symbol}`, sent);
      }
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = messageRequest.value;
        const file = this.extensionsOf(containingType).find(({ number }) => number === extensionNumber)?.file;
        return this.withFile(file, `extension ${extensionNumber} of ${containingType}`, sent);
      }
      case "allExtensionNumbersOfType": {
        const type = messageRequest.value;
        if (this.registry.getMessage(type) === undefined) return notFound(`message type ${type}`);
        const extensionNumber = this.extensionsOf(type).map(({ number }) => number);
        return { case: "allExtensionNumbersResponse", value: { baseTypeName: type, extensionNumber } };
      }
      case undefined:
        return {
          case: "errorResponse",
          value: { errorCode: Code.InvalidArgument, errorMessage: "the request asks for nothing" },
        };
    }
  }

  /** The file, and those that it needs and that the stream's client does not have yet. */
  private withFile(file: DescFile | undefined, what: string, sent: Set<DescFile>): Response {
    if (file === undefined) return notFound(what);
    sent.delete(file);
    const fileDescriptorProto: Uint8Array[] = [];
    const add = (needed: DescFile): void => {
      if (sent.has(needed)) return;
      sent.add(needed);
      fileDescriptorProto.push(this.bytesOf(needed));
      for (const dependency of needed.dependencies) add(dependency);
    };
    add(file);
    return { case: "fileDescriptorResponse", value: { fileDescriptorProto } };
  }

  private bytesOf(file: DescFile): Uint8Array {
    let bytes = this.bytes.get(file);
    if (bytes === undefined) this.bytes.set(file, (bytes = toBinary(FileDescriptorProtoSchema, file.proto)));
    return bytes;
  }

  /** Made when it is first needed. */
  private get registry(): Registry {
    return (this.known ??= createRegistry(...this.files.values()));
  }

  /** Types, services, extensions, and their members: methods, fields, oneofs and enum values. */
  private fileOf(symbol: string): DescFile | undefined {
    const type = this.registry.get(symbol);
    if (type !== undefined) return type.file;
    const parent = parentOf(symbol);
    const isMeant = ({ name }: { readonly name: string }): boolean =>
      symbol === (parent === "" ? name : `${parent}.${name}`);
    const owner = this.registry.get(parent);
    if (owner?.kind === "service" && owner.methods.some(isMeant)) return owner.file;
    if (owner?.kind === "message" && (owner.fields.some(isMeant) || owner.oneofs.some(isMeant))) return owner.file;
    for (const desc of this.registry) {
      // Protobuf has the values of an enum beside it, not in it.
      if (desc.kind === "enum" && parentOf(desc.typeName) === parent && desc.values.some(isMeant)) return desc.file;
    }
    return undefined;
  }

  private extensionsOf(typeName: string): DescExtension[] {
    return [...this.registry].filter(
      (desc): desc is DescExtension => desc.kind === "extension" && desc.extendee.typeName === typeName,
    );
  }
}

/** What a full name is declared in: "" for what is in no package. */
function parentOf(fullName: string): string {
  return fullName.slice(0, Math.max(fullName.lastIndexOf("."), 0));
}

function notFound(what: string): Response {
  return { case: "errorResponse", value: { errorCode: Code.NotFound, errorMessage: `${what} is not known here` } };
}
