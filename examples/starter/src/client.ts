import { createClient, createIsthmusTransport } from "isthmus";
import { GreeterService } from "../proto/greeter_pb.js";
import { address } from "./address.js";

const transport = createIsthmusTransport({ address });
const client = createClient(GreeterService, transport);

const { text } = await client.greet({ name: "world" }, { timeoutMs: 5000 });
// "shm" is shared memory; carrierReason says why it is not.
console.log(`${text} (over ${transport.carrier}${transport.carrierReason ? `: ${transport.carrierReason}` : ""})`);
for await (const { number } of client.countDown({ from: 3 })) console.log(number);
await transport.close();
