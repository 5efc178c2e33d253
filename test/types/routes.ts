/** What users may write as `routes`: compiled, not run. */
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import type {
  IsthmusRouteOptions,
  IsthmusRouter,
  IsthmusServerOptions,
  LeaseLifetime,
  RequestGate,
  RoutesModuleOptions,
} from "../../src/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";

const implementation = { echo: () => ({}) };
const gate = (context: HandlerContext): void => void context.requestHeader;
const asyncGate: RequestGate = async (context) => void (await Promise.resolve(context.values));

// Options of Isthmus's own, where the router's type is inferred.
createIsthmusServer({ routes: (router) => router.service(TestService, implementation, { leases: "scoped" }) });
createIsthmusServer({
  routes: (router) =>
    router
      .service(TestService, implementation, { leases: "strict", requestGate: gate, readMaxBytes: 1 })
      .rpc(TestService.method.wait, () => ({}), { leases: "copied", requestGate: asyncGate }),
});
createIsthmusServer({
  requestGate: asyncGate,
  routes(router) {
    router.service(TestService, implementation).service(TestService, implementation, { maxTimeoutMs: 1 });
  },
});

// Functions for any server of Connect's.
const forAnyServer = (router: ConnectRouter): void => {
  router.service(TestService, implementation, { interceptors: [] });
};
const chained = (router: ConnectRouter) => router.service(TestService, implementation);
createIsthmusServer({ routes: forAnyServer });
createIsthmusServer({ routes: chained });

// Functions for Isthmus's servers, which may call the former.
const ours = (router: IsthmusRouter): void => {
  forAnyServer(router);
  chained(router);
  router.service(TestService, implementation, { leases: "collected" });
};
const options: IsthmusServerOptions = { routes: ours };
createIsthmusServer(options);
export const ofModule: RoutesModuleOptions = { requestGate: gate };

// Options that are made elsewhere. With `exactOptionalPropertyTypes` they are left out, not undefined.
const leases = "scoped" as LeaseLifetime | undefined;
const made: IsthmusRouteOptions = { ...(leases === undefined ? {} : { leases }), readMaxBytes: 1 };
createIsthmusServer({ routes: (router) => router.service(TestService, implementation, made) });

// What is wrong does not compile.
// @ts-expect-error -- no such lifetime
createIsthmusServer({ routes: (router) => router.service(TestService, implementation, { leases: "forever" }) });
// @ts-expect-error -- no such option
createIsthmusServer({ routes: (router) => router.service(TestService, implementation, { lease: "scoped" }) });
// @ts-expect-error -- no function
createIsthmusServer({ routes: (router) => router.rpc(TestService.method.echo, () => ({}), { requestGate: true }) });
// @ts-expect-error -- undefined is not the same as left out
createIsthmusServer({ routes: (router) => router.service(TestService, implementation, { leases }) });
// @ts-expect-error -- no such method
createIsthmusServer({ routes: (router) => router.service(TestService, { echoes: () => ({}) }, { leases: "scoped" }) });
