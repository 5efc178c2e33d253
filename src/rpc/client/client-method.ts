/** A method as a client calls it. */
import type { DescMethod } from "@bufbuild/protobuf";
import type { MessageCodec } from "../../codec/codec.js";
import type { ReceivePolicy } from "../inbound.js";

export interface ClientMethod {
  readonly method: DescMethod;
  /** Number of the method on every connection of this client, once it has been defined there. */
  readonly id: number;
  /** "/package.Service/Method" */
  readonly path: string;
  readonly input: MessageCodec;
  readonly output: MessageCodec;
  readonly receivePolicy: ReceivePolicy;
}
