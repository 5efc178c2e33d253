/** The event loops of two processes while calls run back to back between them. */
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { Lateness } from "./liveness.peer.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled } from "./settings.js";

export const program = new URL("./liveness.peer.js", import.meta.url);
const MILLISECONDS = scaled(1000, 10_000);

interface Watched {
  readonly interval: Lateness;
  readonly nextTick: Lateness;
  readonly handled: number;
}

/** How late everything was, in ms. */
export interface Liveness {
  /** How late an interval is at most, 99 times of 100, in two processes that only compute: what the machine allows. */
  readonly floorMs: number;
  readonly server: Watched;
  readonly client: Watched;
  readonly http: Lateness;
}

/** With `inFlight` calls in flight all the time. It does not come to its end if calls leave timers or HTTP no turn. */
export async function watchLiveness(t: TestContext, inFlight: number): Promise<Liveness> {
  const path = join(scratchFolder(t), "live.sock");
  const [server, client, browser] = await Promise.all([
    startPeer(t, program),
    startPeer(t, program),
    startPeer(t, program),
  ]);
  await server.ask("listen", path);
  // What the machine allows: two processes that only compute, and the same interval in each.
  const both = [server, client];
  const computed = await Promise.all(
    both.map((peer) =>
      Promise.all([peer.ask<Watched>("watch", MILLISECONDS / 2), peer.ask("compute", MILLISECONDS / 2)]),
    ),
  );
  const floorMs = Math.max(...computed.map(([{ interval }]) => interval.p99));
  t.diagnostic(
    `without calls, two processes that compute: late in ms ${computed.map(([{ interval }]) => show(interval)).join("; ")}`,
  );

  const ports = await Promise.all(both.map((peer) => peer.ask<number>("serveHttp")));
  await client.ask("call", { path, milliseconds: 300, inFlight });

  // First without HTTP: three busy processes on two processors would measure the scheduler.
  const calling = client.ask<number>("call", { path, milliseconds: MILLISECONDS + 100, inFlight });
  const [serverWatched, clientWatched] = await Promise.all(
    both.map((peer) => peer.ask<Watched>("watch", MILLISECONDS)),
  );
  const calls = await calling;
  t.diagnostic(
    `${calls} calls; late in ms: server's interval ${show(serverWatched.interval)}, client's ${show(clientWatched.interval)}`,
  );
  t.diagnostic(`process.nextTick in handlers ${show(serverWatched.nextTick)}`);

  const [busyCalls, http] = await Promise.all([
    client.ask<number>("call", { path, milliseconds: MILLISECONDS, inFlight }),
    browser.ask<Lateness>("askHttp", { ports, milliseconds: MILLISECONDS }),
  ]);
  t.diagnostic(`HTTP meanwhile: ${show(http)} ms; ${busyCalls} calls`);
  return { floorMs, server: serverWatched, client: clientWatched, http };
}

export function show({ ticks, p50, p99, max }: Lateness): string {
  return `p50 ${p50.toFixed(2)}, p99 ${p99.toFixed(2)}, max ${max.toFixed(1)} (${ticks})`;
}
