// A user's file: every entry point of the package, and values that go between it, Connect, protobuf-es and grpc-js.
import { createClient as createConnectClient } from "@connectrpc/connect";
import type { Client, ConnectRouter, Interceptor, Transport } from "@connectrpc/connect";
import type { ServiceDefinition, UntypedServiceImplementation } from "@grpc/grpc-js";
import { createBlockingClient, createClient, createIsthmusServer, createIsthmusTransport, loan, region } from "isthmus";
import type { IsthmusServer, IsthmusTransport, LoanOptions, RoutesModuleOptions } from "isthmus";
import { decode, encodeInto, packed, sizeOf } from "isthmus/codec";
import { addGrpcService, createIsthmusChannel } from "isthmus/grpc-js";
import { ItemSchema, StreamService } from "./streams_pb.js";
import type { Item } from "./streams_pb.js";

const interceptor: Interceptor = (next) => (request) => next(request);
export const options: RoutesModuleOptions = { interceptors: [interceptor] };

export function routes(router: ConnectRouter): void {
  router.service(StreamService, {
    async echo(item: Item, context) {
      const data = await loan(context, item.data.length);
      return { text: `${packed(item, ItemSchema.field.values).length}`, data };
    },
  });
}

export async function use(
  definition: ServiceDefinition,
  implementation: UntypedServiceImplementation,
): Promise<string> {
  const server: IsthmusServer = createIsthmusServer({ routes });
  const { address } = await server.listen("unix:/tmp/use.sock");
  const transport: IsthmusTransport = createIsthmusTransport({ address, interceptors: [interceptor] });
  const connects: Transport = transport;
  const client: Client<typeof StreamService> = createClient(StreamService, transport);
  const other: Client<typeof StreamService> = createConnectClient(StreamService, connects);
  const loanOptions: LoanOptions = { timeoutMs: 1000 };
  const data: Uint8Array = await loan(transport, 5000, loanOptions);
  const reply: Item = await client.echo({ text: "text", data });
  for await (const item of other.count({ count: 1n })) console.log(item.number);
  const bytes = new Uint8Array(sizeOf(ItemSchema, reply));
  encodeInto(ItemSchema, reply, bytes);
  const again: Item = decode(ItemSchema, bytes);
  const blocking = createBlockingClient(StreamService, { address });
  const text: string = blocking.echo({ data: await region(1 << 20) }).text;
  createIsthmusServer({ routes: (router) => addGrpcService(router, definition, implementation) });
  createIsthmusChannel({ address }).close();
  return text + again.text;
}

// @ts-expect-error -- the types are there, and refuse this
createIsthmusTransport({ address: 1 });
