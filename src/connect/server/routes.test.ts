import assert from "node:assert/strict";
import { test } from "node:test";
import type { Interceptor } from "@connectrpc/connect";
import { ConnectError } from "@connectrpc/connect";
import { createProtobufCodec } from "../../codec/codec.js";
import { TestService } from "../../../test/proto/test_pb.js";
import { methodPath } from "../descriptors.js";
import type { IsthmusRouter } from "../types/routes.js";
import { collectRoutes } from "./routes.js";

const pass: Interceptor = (next) => next;

function collect(routes: (router: IsthmusRouter) => void) {
  return collectRoutes(routes, {
    readMaxBytes: 100,
    writeMaxBytes: 200,
    interceptors: [pass],
    requestGate: undefined,
    maxTimeoutMs: 300,
    shutdownSignal: undefined,
    leases: "collected",
    codecFor: () => createProtobufCodec(),
  });
}

test("every method of a registered service is served", () => {
  const served = collect((router) => router.service(TestService, { echo: () => ({}) }));
  assert.deepEqual([...served.keys()].sort(), TestService.methods.map(methodPath).sort());
  assert.equal(typeof served.get("/isthmus.test.TestService/Echo"), "object");
  assert.equal(served.get("/isthmus.test.TestService/Count")?.handle, undefined);
});

test("a method that is registered again replaces the first, with its own options only", () => {
  const served = collect((router) => {
    router.service(TestService, { echo: () => ({}) }, { readMaxBytes: 7 });
    router.rpc(TestService.method.wait, () => ({}), { maxTimeoutMs: 8, interceptors: [] });
  });
  const { options } = served.get("/isthmus.test.TestService/Wait")!;
  assert.deepEqual(
    { ...options },
    {
      readMaxBytes: 100,
      writeMaxBytes: 200,
      maxTimeoutMs: 8,
      leases: "collected",
      interceptors: [],
      shutdownSignal: undefined,
    },
  );
  assert.equal(served.get("/isthmus.test.TestService/Echo")!.options.readMaxBytes, 7);
});

test("the router can be chained and has no HTTP handlers", () => {
  collect((router) => {
    assert.equal(router.service(TestService, {}), router);
    assert.equal(
      router.rpc(TestService.method.echo, () => ({})),
      router,
    );
    assert.deepEqual(router.handlers, []);
  });
});

test("limits of a service that make no sense are refused when it is registered", () => {
  assert.throws(() => collect((router) => router.service(TestService, {}, { readMaxBytes: 0 })), ConnectError);
});

test("what routes throws is thrown to whoever makes the server", () => {
  assert.throws(
    () =>
      collect(() => {
        throw new Error("mine");
      }),
    /mine/,
  );
});
