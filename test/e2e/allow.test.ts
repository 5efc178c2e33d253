/**
 * Option `allow`: only true, or a promise of true, lets a client in, and what it takes its time over holds nothing for
 * longer than a handshake may.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { runInNewContext } from "node:vm";
import { Code } from "@connectrpc/connect";
import type { IsthmusServer, IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { skip } from "../stress/settings.js";
import { ownDescriptors } from "../support/resources.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { connectTo } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { failure, waitUntil } from "../support/waiting.js";

type Options = Pick<IsthmusServerOptions, "allow" | "maxConnections" | "handshakeTimeoutMs" | "carrier">;

const ROUTES = new URL("../support/servers/worker-routes.js", import.meta.url);

/** An answer that is given when the test says so. */
function pending(): { allow: () => Promise<boolean>; asked: () => number; answer: (value: unknown) => void } {
  const answers: ((value: boolean) => void)[] = [];
  let asked = 0;
  return {
    allow: () => {
      asked++;
      return new Promise((resolve) => answers.push(resolve));
    },
    asked: () => asked,
    answer: (value) => {
      for (const resolve of answers.splice(0)) resolve(value as boolean);
    },
  };
}

const thenable = (value: unknown) => ({ then: (resolve: (value: unknown) => void) => resolve(value) });

for (const carrier of ["shm", "socket"] as const) {
  for (const where of ["in its own thread", "with workers"] as const) {
    describe(`allow of a server ${where}, ${carrier}`, { skip }, () => {
      async function serve(owner: Owner, options: Options): Promise<{ path: string; server: IsthmusServer }> {
        const path = tempSocket(owner);
        const server = createIsthmusServer({
          carrier,
          ...options,
          ...(where === "with workers" ? { workers: { routes: ROUTES, count: 1 } } : { routes: testRoutes }),
        });
        owner.after(() => server.close({ timeoutMs: 0 }));
        await server.listen(path);
        return { path, server };
      }
      const clientOf = (owner: Owner, path: string) =>
        connectTo(owner, { path }, { carrier: "auto", handshakeTimeoutMs: 7000 }).client;

      test("true and a promise of it let in, of whatever realm", async (context) => {
        let answer: unknown;
        const { path } = await serve(context, { allow: () => answer as boolean });
        for (answer of [
          true,
          Promise.resolve(true),
          thenable(true),
          runInNewContext("Promise.resolve(true)"),
          sleep(20, true),
        ]) {
          await clientOf(context, path).echo({});
        }
      });

      test("nothing else does", async (context) => {
        let answer: unknown;
        const { path, server } = await serve(context, { allow: () => answer as boolean });
        const others: unknown[] = [undefined, null, 1, "yes", {}, [], Object(true), () => true, { then: true }];
        const elsewhere = runInNewContext("(value) => Promise.resolve(value)") as (value: unknown) => unknown;
        const all = [false, ...others].flatMap((value) => [
          value,
          Promise.resolve(value),
          thenable(value),
          elsewhere(value),
        ]);
        for (answer of all)
          await failure(
            clientOf(context, path).echo({}),
            Code.PermissionDenied,
            /user \d+ may not connect to this server; its option `allow` decides who may/,
          );
        answer = 1;
        await failure(
          clientOf(context, path).echo({}),
          Code.PermissionDenied,
          /`allow` returned number; only true, or a promise of it, admits a client/,
        );
        assert.equal(server.stats().refused, all.length + 1);
      });

      test("an error, thrown or rejected, lets nobody in", async (context) => {
        let answer: () => unknown = () => undefined;
        const { path } = await serve(context, { allow: () => answer() as boolean });
        const fail = () => {
          throw new Error("mine");
        };
        const kinds: (() => unknown)[] = [
          fail,
          () => Promise.reject(new Error("mine")),
          () => ({ then: fail }),
          () => Object.defineProperty({}, "then", { get: fail }),
          () => runInNewContext("Promise.reject(undefined)") as unknown,
        ];
        for (answer of kinds)
          await failure(
            clientOf(context, path).echo({}),
            Code.Internal,
            /the server could not decide whether to admit this client: its option `allow` threw/,
          );
      });

      test("a promise that never settles ends with the handshake's time, and leaves nothing open", async (context) => {
        const { path, server } = await serve(context, { allow: () => new Promise(() => {}), handshakeTimeoutMs: 100 });
        const refused = () =>
          failure(
            clientOf(context, path).echo({}),
            Code.DeadlineExceeded,
            /the server did not decide within 100 ms whether to admit this client: the promise of its option `allow` has not settled/,
          );
        await refused();
        const before = ownDescriptors().open;
        await Promise.all(Array.from({ length: 10 }, refused));
        assert.equal(server.stats().refused, 11);
        await waitUntil(
          "all descriptors to be closed",
          () => ownDescriptors().open <= before || String(ownDescriptors().open - before),
        );
      });

      test("the time that it takes counts into the handshake's", {
        skip: carrier === "socket" && "it is the same for every carrier",
      }, async (context) => {
        const { path, server } = await serve(context, { allow: () => sleep(2900, true), handshakeTimeoutMs: 3000 });
        const silent = connect(path);
        context.after(() => silent.destroy());
        silent.resume();
        const start = performance.now();
        await once(silent, "close");
        const tookMs = performance.now() - start;
        // A handshake's time of its own would end after 5900 ms.
        assert.ok(tookMs > 2900 && tookMs < 5500, `it took ${tookMs} ms`);
        await waitUntil("the refusal to be counted", () => server.stats().refused === 1);
      });

      test("who is waited for has a place among maxConnections, and keeps it when it is let in", async (context) => {
        const { allow, answer, asked } = pending();
        const { path, server } = await serve(context, { allow, maxConnections: 1 });
        const first = clientOf(context, path);
        const call = first.echo({ text: "first" });
        await waitUntil("the first to be asked about", () => asked() === 1);
        await failure(
          clientOf(context, path).echo({}),
          Code.ResourceExhausted,
          /the server has 1 connections, its limit/,
        );
        answer(true);
        await call;
        await failure(clientOf(context, path).echo({}), Code.ResourceExhausted, /maxConnections/);
        await waitUntil("the connection to be counted", () => server.stats().connections === 1);
        assert.equal(server.stats().refused, 2);
      });

      test("close does not wait for it, and what it says later changes nothing", async (context) => {
        const { allow, answer, asked } = pending();
        const { path, server } = await serve(context, { allow });
        const before = ownDescriptors().open;
        const calls = Array.from({ length: 3 }, () =>
          failure(
            clientOf(context, path).echo({}),
            Code.Unavailable,
            /shutting down|connection|no such path|nobody listens/,
          ),
        );
        await waitUntil("all to be asked about", () => asked() === 3);
        await server.close();
        answer(true);
        await Promise.all(calls);
        assert.equal(server.stats().connections, 0);
        // The listening socket, and a thread's own, are gone besides.
        await waitUntil(
          "all descriptors to be closed",
          () => ownDescriptors().open <= before || String(ownDescriptors().open - before),
        );
      });

      test("clients that go away meanwhile leave nothing open, and nobody else notices", async (context) => {
        const { allow, answer, asked } = pending();
        const { path, server } = await serve(context, { allow });
        const leave = async (count: number) => {
          const already = asked();
          const sockets = Array.from({ length: count }, () => connect(path));
          await waitUntil("all to be asked about", () => asked() === already + count);
          for (const socket of sockets) socket.destroy();
          answer(true);
        };
        await leave(1);
        await waitUntil("the first to be refused", () => server.stats().refused === 1);
        const before = ownDescriptors().open;
        await leave(10);
        await waitUntil("all to be refused", () => server.stats().refused === 11 || String(server.stats().refused));
        await waitUntil(
          "all descriptors to be closed",
          () => ownDescriptors().open <= before || String(ownDescriptors().open - before),
        );
        const call = clientOf(context, path).echo({ text: "on" });
        await waitUntil("the last to be asked about", () => asked() === 12);
        answer(true);
        await call;
      });
    });
  }
}
