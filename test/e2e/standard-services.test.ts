/**
 * Health and reflection as clients and tools use them: over every carrier, in worker threads, while the server drains.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Registry } from "@bufbuild/protobuf";
import { create, createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import type { FileDescriptorProto } from "@bufbuild/protobuf/wkt";
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../../src/connect/services/proto/grpc/health/v1/health_pb.js";
import type { ServerReflectionRequest } from "../../src/connect/services/proto/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection } from "../../src/connect/services/proto/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection as ServerReflectionAlpha } from "../../src/connect/services/proto/grpc/reflection/v1alpha/reflection_pb.js";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createClient, createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { KindsService } from "../proto/kinds_pb.js";
import { TestService } from "../proto/test_pb.js";
import { CARRIER_PLACES } from "../support/carrier-places.js";
import { onlyWithAddon } from "../support/carriers.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { failure, waitUntil } from "../support/waiting.js";

const CARRIERS = CARRIER_PLACES;

async function serve(owner: Owner, carrier: string, options: Partial<IsthmusServerOptions> = {}) {
  const server = createIsthmusServer({
    routes: (router) => {
      router.service(TestService, { echo: ({ text }) => ({ text }) });
      router.service(KindsService, {});
    },
    health: true,
    reflection: true,
    ...options,
  });
  const { address } = await server.listen(CARRIERS[carrier].address(owner));
  owner.after(() => server.close({ timeoutMs: 0 }));
  const transport = createIsthmusTransport({ address, ...CARRIERS[carrier].client });
  owner.after(() => transport.close());
  return { server, transport, health: createClient(Health, transport) };
}

/** Collects what a watch says, until it ends. */
function collect(statuses: AsyncIterable<{ readonly status: Status }>) {
  const seen: string[] = [];
  const ended = (async () => {
    for await (const { status } of statuses) seen.push(nameOf(status));
  })();
  return { seen, ended };
}

const nameOf = (status: Status): string =>
  Object.entries(Status).find(([, value]) => value === status)?.[0] ?? String(status);

type Ask = ServerReflectionRequest["messageRequest"];

/** Sends questions in one stream, one after the other. */
async function ask(transport: ReturnType<typeof createIsthmusTransport>, ...questions: Ask[]) {
  async function* requests() {
    for (const messageRequest of questions) yield await Promise.resolve({ host: "here", messageRequest });
  }
  const answers = [];
  for await (const answer of createClient(ServerReflection, transport).serverReflectionInfo(requests()))
    answers.push(answer);
  assert.equal(answers.length, questions.length);
  for (const [at, { validHost, originalRequest }] of answers.entries()) {
    assert.equal(validHost, "here");
    assert.deepEqual(originalRequest?.messageRequest, questions[at]);
  }
  return answers.map(({ messageResponse }) => messageResponse);
}

/** A registry of the files that an answer brought, as a tool makes it. */
function registryOf(serialised: readonly Uint8Array[]): { files: string[]; registry: Registry } {
  const protos = serialised.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes));
  const ordered = new Set<FileDescriptorProto>();
  const add = (proto: FileDescriptorProto): void => {
    for (const name of proto.dependency) {
      const needed = protos.find((other) => other.name === name);
      assert.ok(needed !== undefined, `${proto.name} needs ${name}`);
      add(needed);
    }
    ordered.add(proto);
  };
  protos.forEach(add);
  const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: [...ordered] }));
  return { files: protos.map(({ name }) => name), registry };
}

for (const [carrier, { skip }] of Object.entries(CARRIERS)) {
  describe(`over ${carrier}`, { skip }, () => {
    test("every service is serving until it is said otherwise, and who watches learns each change", async (context) => {
      const { server, health } = await serve(context, carrier);
      assert.equal((await health.check({})).status, Status.SERVING);
      assert.equal((await health.check({ service: TestService.typeName })).status, Status.SERVING);
      await failure(health.check({ service: "nobody.Home" }), Code.NotFound, /nobody\.Home/);

      const watches = ["", TestService.typeName, "nobody.Home"].map((service) => collect(health.watch({ service })));
      const seen = () => watches.map((watch) => watch.seen.join(" "));
      await waitUntil("first statuses", () => watches.every((watch) => watch.seen.length === 1));
      assert.deepEqual(seen(), ["SERVING", "SERVING", "SERVICE_UNKNOWN"]);
      server.health?.set(TestService.typeName, "NOT_SERVING");
      await waitUntil("a change", () => watches[1].seen.length === 2);
      assert.equal((await health.check({ service: TestService.typeName })).status, Status.NOT_SERVING);
      assert.equal((await health.check({})).status, Status.SERVING);
      server.health?.set("nobody.Home", "SERVING");
      await waitUntil("a service that appears", () => watches[2].seen.length === 2);
      const { statuses } = await health.list({});
      assert.equal(statuses[TestService.typeName].status, Status.NOT_SERVING);
      assert.deepEqual(Object.keys(statuses).sort(), [
        "",
        Health.typeName,
        ServerReflection.typeName,
        ServerReflectionAlpha.typeName,
        KindsService.typeName,
        TestService.typeName,
        "nobody.Home",
      ]);

      // Draining: all is told, and no watch keeps the server from closing.
      const start = performance.now();
      await server.close({ timeoutMs: 60_000 });
      assert.ok(performance.now() - start < 30_000, "close waits for nobody");
      for (const { ended } of watches) await ended;
      assert.deepEqual(seen(), ["SERVING NOT_SERVING", "SERVING NOT_SERVING", "SERVICE_UNKNOWN SERVING NOT_SERVING"]);
      server.health?.set("", "SERVING");
      assert.equal(server.health?.get(""), "NOT_SERVING");
    });

    test("a watch that its client cancels leaves nothing behind", async (context) => {
      const { server, health } = await serve(context, carrier);
      for (let i = 0; i < 20; i++) {
        const abort = new AbortController();
        const { seen, ended } = collect(health.watch({}, { signal: abort.signal }));
        await waitUntil("a status", () => seen.length === 1);
        abort.abort();
        await failure(ended, Code.Canceled, /./);
      }
      await waitUntil("no open call", () => server.stats().pendingCalls === 0);
    });

    test("reflection tells services and all that is needed to call them", async (context) => {
      const { transport } = await serve(context, carrier);
      const [list, bySymbol, byName, method, unknown] = await ask(
        transport,
        { case: "listServices", value: "*" },
        { case: "fileContainingSymbol", value: KindsService.typeName },
        { case: "fileByFilename", value: "google/protobuf/any.proto" },
        { case: "fileContainingSymbol", value: `${TestService.typeName}.Echo` },
        { case: "fileContainingSymbol", value: "nobody.Home" },
      );
      assert.ok(list.case === "listServicesResponse");
      assert.deepEqual(
        list.value.service.map(({ name }) => name),
        [Health, ServerReflection, ServerReflectionAlpha, KindsService, TestService].map(({ typeName }) => typeName),
      );
      assert.ok(bySymbol.case === "fileDescriptorResponse");
      const { registry, files } = registryOf(bySymbol.value.fileDescriptorProto);
      assert.deepEqual(
        registry.getService(KindsService.typeName)?.methods.map(({ name }) => name),
        ["Echo"],
      );
      assert.ok(registry.getMessage("google.protobuf.Any") !== undefined, files.join());
      assert.ok(byName.case === "fileDescriptorResponse");
      assert.equal(registryOf(byName.value.fileDescriptorProto).files[0], "google/protobuf/any.proto");
      assert.ok(method.case === "fileDescriptorResponse");
      assert.ok(unknown.case === "errorResponse");
      assert.equal(unknown.value.errorCode, Code.NotFound);
      assert.match(unknown.value.errorMessage, /nobody\.Home/);

      const alpha = createClient(ServerReflectionAlpha, transport);
      const names = [];
      async function* once() {
        yield await Promise.resolve({ messageRequest: { case: "listServices" as const, value: "" } });
      }
      for await (const { messageResponse } of alpha.serverReflectionInfo(once()))
        if (messageResponse.case === "listServicesResponse")
          names.push(...messageResponse.value.service.map(({ name }) => name));
      assert.ok(names.includes(TestService.typeName));
    });

    test("a gate is for reflection, and not for health", async (context) => {
      const requestGate = () => {
        throw new ConnectError("who are you?", Code.Unauthenticated);
      };
      const { transport, health } = await serve(context, carrier, { requestGate });
      assert.equal((await health.check({})).status, Status.SERVING);
      await failure(ask(transport, { case: "listServices", value: "" }), Code.Unauthenticated, /who are you/);
    });

    test("neither is there unless it is asked for", async (context) => {
      const { server, transport, health } = await serve(context, carrier, { health: false, reflection: false });
      assert.equal(server.health, undefined);
      await failure(health.check({}), Code.Unimplemented, /Health|404|501|mplement/);
      await failure(ask(transport, { case: "listServices", value: "" }), Code.Unimplemented, /./);
    });
  });
}

test("members, extensions and files that were sent before", async (context) => {
  const { transport } = await serve(context, "Unix socket");
  const found = async (...symbols: string[]) => {
    const answers = await ask(transport, ...symbols.map((value) => ({ case: "fileContainingSymbol" as const, value })));
    return answers.map((answer) =>
      answer.case === "fileDescriptorResponse" ? answer.value.fileDescriptorProto.length : answer.case,
    );
  };
  const kinds = KindsService.method.echo.input.typeName;
  const [whole, field, value, nothing] = await found(
    kinds,
    `${kinds}.nested`,
    "google.protobuf.SYNTAX_PROTO2",
    `${kinds}.x`,
  );
  assert.ok(typeof whole === "number" && whole > 3, "the file and its imports");
  assert.deepEqual([field, value, nothing], [1, 1, "errorResponse"], "imports are sent once a stream");
  const [numbers, noType, extension] = await ask(
    transport,
    { case: "allExtensionNumbersOfType", value: kinds },
    { case: "allExtensionNumbersOfType", value: "nobody.Home" },
    {
      case: "fileContainingExtension",
      value: { $typeName: "grpc.reflection.v1.ExtensionRequest", containingType: kinds, extensionNumber: 7 },
    },
  );
  assert.ok(numbers.case === "allExtensionNumbersResponse");
  assert.deepEqual([numbers.value.baseTypeName, numbers.value.extensionNumber], [kinds, []]);
  assert.deepEqual([noType.case, extension.case], ["errorResponse", "errorResponse"]);
});

test("with workers a status is set in every thread, and everything else works as without", {
  skip: onlyWithAddon,
}, async (context) => {
  const server = createIsthmusServer({
    carrier: "shm",
    health: true,
    reflection: true,
    workers: { count: 2, routes: new URL("../support/servers/worker-routes.js", import.meta.url) },
  });
  const path = tempSocket(context);
  await server.listen(path);
  context.after(() => server.close({ timeoutMs: 0 }));
  const clients = Array.from({ length: 4 }, () => {
    const transport = createIsthmusTransport({ address: path, carrier: "shm" });
    context.after(() => transport.close());
    return { transport, health: createClient(Health, transport) };
  });
  for (const { health } of clients) assert.equal((await health.check({})).status, Status.SERVING);
  const watches = clients.map(({ health }) => collect(health.watch({})));
  await waitUntil("first statuses", () => watches.every(({ seen }) => seen.length === 1));
  server.health?.set("", "NOT_SERVING");
  assert.equal(server.health?.get(""), "NOT_SERVING");
  await waitUntil("all threads", () => watches.every(({ seen }) => seen.join() === "SERVING,NOT_SERVING"));
  const [list] = await ask(clients[0].transport, { case: "listServices", value: "" });
  assert.ok(list.case === "listServicesResponse" && list.value.service.length > 3);
  await server.close();
  for (const { ended } of watches) await ended;
});

test("mistakes are named", () => {
  const routes: IsthmusServerOptions["routes"] = (router) => void router.service(Health, {});
  assert.throws(() => createIsthmusServer({ routes, health: true }), /option health: routes registers grpc\.health/);
  assert.throws(() => createIsthmusServer({ routes, health: "yes" as never }), /health/);
  const server = createIsthmusServer({ routes: () => undefined, health: true });
  assert.throws(() => server.health?.set("", "serving" as never), /one of "SERVING", "NOT_SERVING", "UNKNOWN"/);
  assert.throws(() => server.health?.set(undefined as never, "SERVING"), /full name/);
});
