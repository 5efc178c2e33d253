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
  type ServiceDefinition,
  type handleUnaryCall,
} from "@grpc/grpc-js";
import { addGrpcService, createIsthmusChannel } from "../../src/grpc-js/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { EchoService, PayloadSchema, type Payload } from "../proto/bench_pb.js";
import { messageBytesMax, type Answer, type Connection, type Peer } from "./peer.js";

const path = `/${EchoService.typeName}/${EchoService.method.echo.name}`;

/** The flow-control window is raised as for Connect: with 64 KiB, large messages wait for a round trip per window. */
const options = {
  "grpc.max_send_message_length": messageBytesMax,
  "grpc.max_receive_message_length": messageBytesMax,
  "grpc-node.flow_control_window": 16 << 20,
};

const definition: ServiceDefinition = {
  echo: {
    path,
    requestStream: false,
    responseStream: false,
    requestSerialize: serialize,
    requestDeserialize: deserialize,
    responseSerialize: serialize,
    responseDeserialize: deserialize,
  },
};

export const grpc: Peer = {
  name: "grpc-js",
  servesInClient: false,

  async startServer(socketPath, answer) {
    const server = new Server(options);
    server.addService(definition, { echo: handlerOf(answer) });
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${socketPath}`, ServerCredentials.createInsecure(), (error) =>
        error ? reject(error) : resolve(),
      );
    });
    return {
      close: () => {
        server.forceShutdown();
        return Promise.resolve();
      },
    };
  },

  async connect(socketPath) {
    const client = new Client(`unix:${socketPath}`, credentials.createInsecure(), options);
    await new Promise<void>((resolve, reject) => {
      client.waitForReady(Date.now() + 10_000, (error) => (error ? reject(error) : resolve()));
    });
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

function handlerOf(answer: Answer): handleUnaryCall<Payload, Payload> {
  return (call, callback) => {
    let reply: Payload;
    try {
      reply = answer(call.request);
    } catch (error) {
      callback(error as Error);
      return;
    }
    callback(null, reply);
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
