/**
 * grpc-js, twice: its generic client and server on a Unix socket, and the same client and service over shared memory.
 * With protobuf-es for the messages.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  Client,
  Server,
  ServerCredentials,
  credentials,
  type MethodDefinition,
  type ServiceDefinition,
  type handleUnaryCall,
} from "@grpc/grpc-js";
import { addGrpcService, createIsthmusChannel } from "../../src/grpc-js/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { EchoService, LineService, PayloadSchema, type Payload } from "../proto/bench_pb.js";
import { messageBytesMax, type Connection, type Handler, type Peer } from "./peer.js";

const path = `/${EchoService.typeName}/${EchoService.method.echo.name}`;

/** The flow-control window is raised as for Connect: with 64 KiB, large messages wait for a round trip per window. */
export const grpcOptions = {
  "grpc.max_send_message_length": messageBytesMax,
  "grpc.max_receive_message_length": messageBytesMax,
  "grpc-node.flow_control_window": 16 << 20,
  // Clients of one process would share a connection.
  "grpc.use_local_subchannel_pool": 1,
};

const serialization = {
  requestSerialize: serialize,
  requestDeserialize: deserialize,
  responseSerialize: serialize,
  responseDeserialize: deserialize,
};

const definition: ServiceDefinition = {
  echo: { path, requestStream: false, responseStream: false, ...serialization },
};

/** What the lines of the services' part use. */
export const gatherDefinition: MethodDefinition<Payload, Payload> = {
  path: `/${LineService.typeName}/${LineService.method.gather.name}`,
  requestStream: true,
  responseStream: false,
  ...serialization,
};

export const grpc: Peer = {
  name: "grpc-js",
  servesInClient: false,

  async startServer(socketPath, answer) {
    const server = new Server(grpcOptions);
    server.addService(definition, { echo: handlerOf(answer) });
    await listen(server, socketPath);
    return {
      close: () => {
        server.forceShutdown();
        return Promise.resolve();
      },
    };
  },

  async connect(socketPath) {
    const client = new Client(`unix:${socketPath}`, credentials.createInsecure(), grpcOptions);
    await ready(client);
    return connectionOf(client);
  },
};

export const isthmusGrpc: Peer = {
  name: "isthmus-grpc-js",
  servesInClient: false,

  async startServer(path, answer) {
    const server = createIsthmusServer({
      carrier: "shm",
      routes: (router) => addGrpcService(router, definition, { echo: handlerOf(answer) }),
    });
    await server.listen(path);
    return server;
  },

  connect(path) {
    const channelOverride = createIsthmusChannel({ address: path, carrier: "shm" });
    return Promise.resolve(connectionOf(new Client("", credentials.createInsecure(), { channelOverride })));
  },
};

export function listen(server: Server, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${socketPath}`, ServerCredentials.createInsecure(), (error) =>
      error ? reject(error) : resolve(),
    );
  });
}

export function ready(client: Client): Promise<void> {
  return new Promise((resolve, reject) => {
    client.waitForReady(Date.now() + 10_000, (error) => (error ? reject(error) : resolve()));
  });
}

function handlerOf(answer: Handler): handleUnaryCall<Payload, Payload> {
  return (call, callback) => {
    let reply: Payload | Promise<Payload>;
    try {
      reply = answer(call.request);
    } catch (error) {
      callback(error as Error);
      return;
    }
    if (reply instanceof Promise) reply.then((late) => callback(null, late), callback);
    else callback(null, reply);
  };
}

function connectionOf(client: Client): Connection {
  return {
    call: (request) =>
      new Promise((resolve, reject) => {
        client.makeUnaryRequest(path, serialize, deserialize, request, (error, reply) => {
          if (error) reject(error);
          else resolve(reply!);
        });
      }),
    close: () => {
      client.close();
      return Promise.resolve();
    },
  };
}

function serialize(message: Payload): Buffer {
  const bytes = toBinary(PayloadSchema, message);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function deserialize(bytes: Buffer): Payload {
  return fromBinary(PayloadSchema, bytes);
}
