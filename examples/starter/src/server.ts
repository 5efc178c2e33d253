import { createIsthmusServer } from "isthmus";
import { address } from "./address.js";
import { routes } from "./routes.js";

const server = createIsthmusServer({ routes });
const listening = await server.listen(address);
console.log(`listening on ${listening.address}`);

// Open calls are finished first.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void server.close());
