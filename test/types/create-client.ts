/** `createClient` has the type of Connect's: compiled, not run. */
import { createClient as createConnectClient } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { TestService } from "../proto/test_pb.js";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

const transport = createIsthmusTransport({ address: "/run/test.sock" });
const ours = createClient(StreamService, transport);
export const isConnectsType: Equal<typeof ours, Client<typeof StreamService>> = true;
export const isConnectsFunction: Equal<typeof createClient, typeof createConnectClient> = true;

// Each may stand for the other.
const interchangeable: { create: typeof createConnectClient }[] = [
  { create: createClient },
  { create: createConnectClient },
];
export const made: Client<typeof TestService>[] = interchangeable.map(({ create }) => create(TestService, transport));

// What is wrong does not compile.
// @ts-expect-error -- no such method
export const { eco } = ours;
// @ts-expect-error -- no such field
void ours.echo({ numbr: 1n });
// @ts-expect-error -- no such option
void ours.echo({}, { timeout: 1 });
