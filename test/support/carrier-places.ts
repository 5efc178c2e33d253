/** Where a server listens, and how a client reaches it, for tests that run over every carrier. */
import type { IsthmusTransportOptions } from "../../src/index.js";
import { onlyWithAddon } from "./carriers.js";
import type { Owner } from "./temp.js";
import { tempSocket } from "./temp.js";

export interface CarrierPlace {
  readonly address: (owner: Owner) => string;
  readonly client: Partial<IsthmusTransportOptions>;
  readonly skip?: string | false;
}

export const CARRIER_PLACES: Readonly<Record<string, CarrierPlace>> = {
  "shared memory": { address: tempSocket, client: { carrier: "shm" }, skip: onlyWithAddon },
  "Unix socket": { address: tempSocket, client: { carrier: "socket" } },
  TCP: { address: () => "tcp:127.0.0.1:0", client: {} },
  "HTTP/2 with gRPC": { address: () => "http://127.0.0.1:0", client: {} },
};
