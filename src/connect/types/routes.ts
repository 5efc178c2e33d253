/** What a server's `routes` function registers services with. Types only. */
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import type { ConnectRouter, MethodImpl, ServiceImpl } from "@connectrpc/connect";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import type { RequestGate } from "../../rpc/server/gate.js";

type ConnectRouteOptions = NonNullable<Parameters<ConnectRouter["rpc"]>[2]>;

/** Options of a service or a method: Connect's, and Isthmus's own. By default the server's apply. */
export interface IsthmusRouteOptions extends Omit<ConnectRouteOptions, "requestGate"> {
  /** How long large values of its requests stay valid; the server's `leases` by default. */
  leases?: LeaseLifetime;
  /** Same as Connect's option of this name (since 2.3), and available with every installed version. */
  requestGate?: RequestGate;
}

/**
 * The argument of a server's `routes` function: Connect's router, which also takes Isthmus's options. A function that
 * takes a `ConnectRouter` can be used as `routes`.
 */
export interface IsthmusRouter extends ConnectRouter {
  service: <T extends DescService>(
    service: T,
    implementation: Partial<ServiceImpl<T>>,
    options?: IsthmusRouteOptions,
  ) => this;
  rpc: <M extends DescMethod>(method: M, implementation: MethodImpl<M>, options?: IsthmusRouteOptions) => this;
}
