/** Interceptors on both ends, as with any Connect transport and server. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import type { HandlerContext, Interceptor, ServiceImpl, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError, createClient, createContextKey, createContextValues } from "@connectrpc/connect";
import { createValidateInterceptor } from "@connectrpc/validate";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { EchoReplySchema, EchoRequestSchema, TestService } from "../proto/test_pb.js";
import { ValidatedService } from "../proto/validated_pb.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import type { TestClient } from "../support/test-server.js";
import { connectTo } from "../support/test-server.js";
import { createTracer } from "../support/tracing.js";
import { failure, waitUntil } from "../support/waiting.js";

type Implementation = Partial<ServiceImpl<typeof TestService>>;
type Unary = (
  next: (request: UnaryRequest) => Promise<UnaryResponse>,
) => (request: UnaryRequest) => Promise<UnaryResponse>;

/** An interceptor of unary calls; this version has no others. */
function unary(interceptor: Unary): Interceptor {
  return interceptor as unknown as Interceptor;
}

async function serve(
  owner: Owner,
  implementation: Implementation,
  server: Interceptor[],
  client: Interceptor[] = [],
): Promise<TestClient> {
  const path = tempSocket(owner);
  const running = createIsthmusServer({
    interceptors: server,
    routes: (router) => router.service(TestService, implementation),
  });
  await running.listen(path);
  owner.after(() => running.close({ timeoutMs: 0 }));
  return connectTo(owner, { path }, { interceptors: client });
}

const echo: Implementation = { echo: ({ text, number }) => ({ text, number }) };

test("interceptors run from the first to the last and back, on both ends", async (context) => {
  const order: string[] = [];
  const note = (name: string) =>
    unary((next) => async (request) => {
      order.push(`${name} in`);
      const response = await next(request);
      order.push(`${name} out`);
      return response;
    });
  const { client } = await serve(
    context,
    echo,
    [note("server 1"), note("server 2")],
    [note("client 1"), note("client 2")],
  );
  await client.echo({});
  assert.deepEqual(
    order,
    ["client 1", "client 2", "server 1", "server 2"]
      .flatMap((name) => [`${name} in`])
      .concat(["server 2 out", "server 1 out", "client 2 out", "client 1 out"]),
  );
});

test("interceptors see the call as Connect shows it", async (context) => {
  const seen: Record<string, unknown>[] = [];
  const look = unary((next) => (request) => {
    seen.push({
      ...request,
      header: [...request.header],
      message: request.message.$typeName,
      signal: request.signal.aborted,
    });
    return next(request);
  });
  const { client } = await serve(context, echo, [look], [look]);
  await client.echo({}, { headers: { "x-a": "1" } });
  for (const { contextValues, ...request } of seen) {
    assert.equal(typeof contextValues, "object");
    assert.deepEqual(request, {
      stream: false,
      service: TestService,
      method: TestService.method.echo,
      requestMethod: "POST",
      url: "http://localhost/isthmus.test.TestService/Echo",
      header: [["x-a", "1"]],
      message: "isthmus.test.EchoRequest",
      signal: false,
    });
  }
  assert.equal(seen.length, 2);
});

for (const end of ["client", "server"] as const) {
  describe(`an interceptor on the ${end}`, () => {
    const serveWith = (owner: Owner, interceptor: Interceptor, implementation: Implementation = echo) =>
      end === "server" ? serve(owner, implementation, [interceptor]) : serve(owner, implementation, [], [interceptor]);

    test("can change request headers, and what the handler adds to the response is not lost", async (context) => {
      const interceptor = unary((next) => async (request) => {
        request.header.set("x-token", `${request.header.get("x-token") ?? ""}!`);
        const response = await next(request);
        response.header.append("x-by", "interceptor");
        response.trailer.set("x-also-by", "interceptor");
        return response;
      });
      const { client } = await serveWith(context, interceptor, {
        echo(_, { requestHeader, responseHeader, responseTrailer }) {
          responseHeader.set("x-by", "handler");
          responseTrailer.set("x-trailer-by", "handler");
          return { text: requestHeader.get("x-token")! };
        },
      });
      let header: Headers | undefined;
      let trailer: Headers | undefined;
      const reply = await client.echo(
        {},
        { headers: { "x-token": "t" }, onHeader: (value) => (header = value), onTrailer: (value) => (trailer = value) },
      );
      assert.equal(reply.text, "t!");
      assert.equal(header!.get("x-by"), "handler, interceptor");
      assert.deepEqual(
        [...trailer!],
        [
          ["x-also-by", "interceptor"],
          ["x-trailer-by", "handler"],
        ],
      );
    });

    test("can hand on another request, with other headers, context values and message", async (context) => {
      const key = createContextKey("default");
      const interceptor = unary(
        (next) => (request) =>
          next({
            ...request,
            message: create(EchoRequestSchema, { text: "replaced" }),
            header: new Headers({ "x-new": "yes" }),
            contextValues: createContextValues().set(key, "set"),
          }),
      );
      const { client } = await serveWith(context, interceptor, {
        echo: ({ text }, { requestHeader, values }) => ({
          text: `${text} ${requestHeader.get("x-new")} ${values.get(key)}`,
        }),
      });
      const reply = await client.echo({ text: "original" });
      assert.equal(reply.text, `replaced yes ${end === "server" ? "set" : "default"}`);
    });

    test("can hand back another response, which replaces headers and trailers", async (context) => {
      const interceptor = unary((next) => async (request) => {
        const response = await next(request);
        const header = new Headers(response.header);
        header.set("x-copied", "yes");
        return {
          ...response,
          header,
          trailer: new Headers({ "x-other": "yes" }),
          message: create(EchoReplySchema, { text: "replaced" }),
        };
      });
      const { client } = await serveWith(context, interceptor, {
        echo(_, { responseHeader, responseTrailer }) {
          responseHeader.set("x-once", "1");
          responseTrailer.set("x-gone", "1");
          return {};
        },
      });
      let header: Headers | undefined;
      let trailer: Headers | undefined;
      const reply = await client.echo(
        {},
        { onHeader: (value) => (header = value), onTrailer: (value) => (trailer = value) },
      );
      assert.equal(reply.text, "replaced");
      assert.deepEqual(
        [...header!],
        [
          ["x-copied", "yes"],
          ["x-once", "1"],
        ],
      );
      assert.deepEqual([...trailer!], [["x-other", "yes"]]);
    });

    test("can answer by itself", async (context) => {
      let handled = 0;
      const interceptor = unary(
        () => (request) =>
          Promise.resolve({
            stream: false,
            service: request.service,
            method: request.method,
            header: new Headers({ "x-cached": "yes" }),
            trailer: new Headers(),
            message: create(EchoReplySchema, { text: "cached" }),
          }),
      );
      const { client } = await serveWith(context, interceptor, { echo: () => (handled++, {}) });
      let header: Headers | undefined;
      assert.equal((await client.echo({}, { onHeader: (value) => (header = value) })).text, "cached");
      assert.equal(header!.get("x-cached"), "yes");
      assert.equal(handled, 0);
    });

    test("can call again after a failure, with the same message", async (context) => {
      let attempts = 0;
      const retry = unary((next) => async (request) => {
        for (;;) {
          try {
            return await next(request);
          } catch (error) {
            if (ConnectError.from(error).code !== Code.Unavailable) throw error;
          }
        }
      });
      const { client } = await serveWith(context, retry, {
        echo({ text }) {
          if (++attempts < 4) throw new ConnectError("not yet", Code.Unavailable);
          return { text: `${text} ${attempts}` };
        },
      });
      assert.equal((await client.echo({ text: "attempt" })).text, "attempt 4");
    });

    test("can map errors, and sees the handler's", async (context) => {
      const interceptor = unary((next) => async (request) => {
        try {
          return await next(request);
        } catch (error) {
          const { code, rawMessage } = ConnectError.from(error);
          throw new ConnectError(
            `mapped: ${rawMessage}`,
            code === Code.NotFound ? Code.PermissionDenied : Code.Unknown,
          );
        }
      });
      const { client } = await serveWith(context, interceptor, {
        echo() {
          throw new ConnectError("hidden", Code.NotFound);
        },
      });
      await failure(client.echo({}), Code.PermissionDenied, /mapped: hidden/);
    });

    test("that throws fails the call, at whatever point it throws", async (context) => {
      const when = ["made", "called", "later", "after"] as const;
      for (const point of when) {
        const fail = () => {
          throw new ConnectError(point, Code.Aborted);
        };
        const interceptor = unary((next) => {
          if (point === "made") fail();
          return (request) => {
            if (point === "called") fail();
            return (point === "later" ? Promise.resolve().then(fail) : next(request)).then((response) =>
              point === "after" ? fail() : response,
            );
          };
        });
        const { client } = await serveWith(context, interceptor);
        await failure(client.echo({}), Code.Aborted, new RegExp(point));
      }
    });

    test("has a signal that aborts at the deadline, and when the call is over", async (context) => {
      const signals: AbortSignal[] = [];
      const interceptor = unary((next) => (request) => {
        signals.push(request.signal);
        return next(request);
      });
      const { client } = await serveWith(context, interceptor, {
        echo,
        ...echo,
        wait: () => new Promise(() => {}),
      } as Implementation);
      await client.echo({});
      assert.equal(signals[0].aborted, true);
      await failure(client.wait({}, { timeoutMs: 1000 }), Code.DeadlineExceeded, /timed out/);
      await waitUntil("the signal to abort", () => signals[1].aborted);
      assert.equal((signals[1].reason as ConnectError).code, Code.DeadlineExceeded);
    });
  });
}

/** Interceptors that do what the types forbid, by what is said of them. */
const ODD: Record<
  string,
  { readonly interceptor: (next: (request: never) => Promise<UnaryResponse>) => unknown; readonly says: RegExp }
> = {
  "that answers nothing": {
    interceptor: (next) => async (request: never) => void (await next(request)),
    says: /answered the call \/isthmus.test.TestService\/Echo with undefined instead of a response/,
  },
  "that answers null": { interceptor: () => () => Promise.resolve(null), says: /with null instead of a response/ },
  "that answers text": { interceptor: () => () => "oops", says: /with oops instead of a response/ },
  "that answers without a message": {
    interceptor: (next) => async (request: never) => ({ ...(await next(request)), message: undefined }),
    says: /a response without a message/,
  },
};

for (const end of ["client", "server"] as const) {
  for (const [what, { interceptor, says }] of Object.entries(ODD)) {
    test(`an interceptor on the ${end} ${what} fails the call, with an error that says so, and no other call`, async (context) => {
      let isOdd = true;
      const odd = interceptor as unknown as Unary;
      const sometimes = unary((next) => (request) => (isOdd ? odd(next)(request) : next(request)));
      const { client } = await serve(
        context,
        echo,
        end === "server" ? [sometimes] : [],
        end === "client" ? [sometimes] : [],
      );
      await failure(client.echo({ text: "a" }), Code.Internal, says);
      isOdd = false;
      assert.equal((await client.echo({ text: "b" })).text, "b");
    });
  }
}

test("an interceptor on the server whose headers or trailers are none fails the call", async (context) => {
  for (const wrong of [{ header: undefined }, { trailer: { "x-a": "b" } }, { header: null }, { trailer: 5 }]) {
    const { client } = await serve(context, echo, [
      unary((next) => async (request) => ({ ...(await next(request)), ...(wrong as object) })),
    ]);
    await failure(client.echo({}), Code.Internal, /`header` and `trailer` are not both Headers/);
  }
});

test("an interceptor on the server can assign to the request, as to Connect's", async (context) => {
  const key = createContextKey("default");
  const assign = unary((next) => (request) => {
    Object.assign(request, {
      header: new Headers({ "x-new": "yes" }),
      contextValues: createContextValues().set(key, "set"),
      message: create(EchoRequestSchema, { text: "other" }),
    });
    return next(request);
  });
  const { client } = await serve(
    context,
    {
      echo: ({ text }, { requestHeader, values }) => ({
        text: `${text} ${requestHeader.get("x-new")} ${values.get(key)}`,
      }),
    },
    [assign],
  );
  assert.equal((await client.echo({ text: "one" })).text, "other yes set");
});

test("an interceptor on the client that changes what is called, or hands on nothing, gets an error", async (context) => {
  let handled = 0;
  const changes: [Unary, RegExp][] = [
    [
      (next) => (request) => next({ ...request, url: request.url.replace("Echo", "Wait") }),
      /changed the URL of the call \/isthmus.test.TestService\/Echo/,
    ],
    [(next) => (request) => next({ ...request, message: undefined as never }), /without a message/],
  ];
  for (const [change, says] of changes) {
    const { client } = await serve(context, { echo: () => (handled++, {}) }, [], [unary(change)]);
    const error = await client.echo({}).then(
      () => assert.fail("the call was made"),
      (reason: unknown) => ConnectError.from(reason),
    );
    assert.match(error.message, says);
  }
  assert.equal(handled, 0);
});

test("an interceptor that calls twice makes two calls, on either end", async (context) => {
  let handled = 0;
  const twice = unary((next) => async (request) => (await Promise.all([next(request), next(request)]))[1]);
  const { client } = await serve(context, { echo: ({ text }) => (handled++, { text }) }, [twice], [twice]);
  assert.equal((await client.echo({ text: "a" })).text, "a");
  assert.equal(handled, 4);
});

test("a client interceptor that waits uses up the call's timeout", async (context) => {
  const delay = unary((next) => async (request) => {
    await new Promise((resolve) => setTimeout(resolve, 60));
    return next(request);
  });
  let timeoutMs: number | undefined;
  const { client } = await serve(
    context,
    { echo: (_, handler) => ((timeoutMs = handler.timeoutMs()), {}) },
    [],
    [delay],
  );
  await client.echo({}, { timeoutMs: 600_000 });
  // A timer may fire a moment early.
  assert.ok(timeoutMs! <= 599_942, String(timeoutMs));
});

test("context values set by a server interceptor reach the handler, and those of a call its client interceptors", async (context) => {
  const user = createContextKey("nobody");
  const authenticate = unary((next) => (request) => {
    request.contextValues.set(user, request.header.get("authorization") ?? "anonymous");
    return next(request);
  });
  const attach = unary((next) => (request) => {
    request.header.set("authorization", request.contextValues.get(user));
    return next(request);
  });
  const { client } = await serve(
    context,
    { echo: (_, { values }: HandlerContext) => ({ text: values.get(user) }) },
    [authenticate],
    [attach],
  );
  assert.equal((await client.echo({}, { contextValues: createContextValues().set(user, "ada") })).text, "ada");
  assert.equal((await client.echo({})).text, "nobody");
});

test("@connectrpc/validate refuses invalid messages on the server and on the client", async (context) => {
  const path = tempSocket(context);
  let handled = 0;
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(
        ValidatedService,
        { register: ({ name }) => (handled++, { greeting: `hello ${name}` }) },
        { interceptors: [createValidateInterceptor()] },
      ),
  });
  await server.listen(path);
  context.after(() => server.close());
  const client = createClient(ValidatedService, createIsthmusTransport({ address: path }));
  assert.equal((await client.register({ name: "Ada", age: 36 })).greeting, "hello Ada");
  const error = await failure(client.register({ name: "Al", age: 151 }), Code.InvalidArgument, /name.*at least 3/s);
  assert.equal(error.details.length, 1);
  assert.deepEqual(
    error.details.map((detail) => "type" in detail && detail.type),
    ["buf.validate.Violations"],
  );
  assert.equal(handled, 1);

  const strict = createClient(
    ValidatedService,
    createIsthmusTransport({ address: tempSocket(context), interceptors: [createValidateInterceptor()] }),
  );
  await failure(strict.register({ name: "Ada", age: 151 }), Code.InvalidArgument, /age.*150/s);
});

test("traces join both ends: one trace per request, also through a handler that calls on, also with many at once", async (context) => {
  const tracer = createTracer();
  const backend = await serve(context, echo, [tracer.server], [tracer.client]);
  const frontend = await serve(
    context,
    {
      async echo({ text }) {
        const before = tracer.active();
        const reply = await backend.client.echo({ text });
        assert.equal(tracer.active(), before);
        return reply;
      },
    },
    [tracer.server],
    [tracer.client],
  );
  const calls = Array.from({ length: 50 }, (_, i) =>
    tracer.span(`request ${i}`, async () => {
      const before = tracer.active();
      assert.equal((await frontend.client.echo({ text: String(i) })).text, String(i));
      assert.equal(tracer.active(), before);
      return before!.traceId;
    }),
  );
  const traceIds = await Promise.all(calls);
  assert.equal(new Set(traceIds).size, 50);
  for (const traceId of traceIds) {
    const trace = tracer.spans.filter((span) => span.traceId === traceId);
    assert.deepEqual(
      trace.map(({ name }) => name.replace(/\d+/, "N")),
      ["request N", "client Echo", "server Echo", "client Echo", "server Echo"],
    );
    assert.deepEqual(
      trace.map(({ parentId }) => parentId),
      [undefined, ...trace.slice(0, -1).map(({ spanId }) => spanId)],
    );
    assert.ok(trace.every(({ status }) => status === "ok"));
  }
});

test("a trace records how a call failed", async (context) => {
  const tracer = createTracer();
  const { client } = await serve(
    context,
    { echo: () => Promise.reject(new ConnectError("no", Code.NotFound)) },
    [tracer.server],
    [tracer.client],
  );
  await failure(client.echo({}), Code.NotFound, /no/);
  assert.deepEqual(
    tracer.spans.map(({ status }) => status),
    [Code.NotFound, Code.NotFound],
  );
});
