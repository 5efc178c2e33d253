/** Isthmus for users of grpc-js: its generated clients and service implementations. Requires `@grpc/grpc-js`. */
export type { IsthmusChannel, IsthmusChannelOptions } from "./channel.js";
export { createIsthmusChannel } from "./channel.js";
export { addGrpcService } from "./service.js";
