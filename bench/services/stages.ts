/** The processes of each service with one peer: started, run, asked for their processor time, and stopped. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Cast } from "../cast.js";
import { Child, nodeProgram, startTimeoutMs, type Program } from "../child-process.js";
import type { Cores } from "../machine.js";
import { mergeSorted, percentile } from "../measure.js";
import type { PeerName } from "../peers/peer.js";
import { programOf } from "../programs.js";
import type { Load } from "../protocol.js";
import { callBytes, gatewayBytes, lineBytes, linePauseMs, waitMs, type LoadFigures } from "./task.js";

const answerTimeoutMs = 10_000;
/** What a stretch may take beyond its duration. */
const graceMs = 30_000;

export interface Stage {
  /** Works at this level for so long. */
  run(level: number, durationMs: number): Promise<LoadFigures>;
  /** What the silent server uses of a core, for so long. */
  watchSilence(silenceMs: number): Promise<number>;
  stop(): Promise<void>;
}

export type OpenStage = (peer: PeerName, level: number, cores: Cores, directory: string) => Promise<Stage>;

/** A backend, a gateway that calls it, and a load generator. */
export const openGateway: OpenStage = (peer, _level, cores, directory) =>
  withChildren(async (start) => {
    const path = join(directory, `gateway-${peer}.sock`);
    const backend = await start(await programOf(peer, "server", [path, "0"]), cores.server);
    const gateway = await start(await programOf(peer, "gateway", [path]), cores.client);
    const { port } = await gateway.ask({ type: "port" }, "port", answerTimeoutMs);
    const load = await start(nodeProgram("services/http-load", [peer, String(port)]), cores.client);
    const run: Stage["run"] = async (level, durationMs) => {
      const [gatewayFrom, backendFrom] = [await cpuOf(gateway), await cpuOf(backend)];
      const working = load.ask(
        { type: "run", load: loadOf(gatewayBytes, level, durationMs) },
        "stretch",
        durationMs + graceMs,
      );
      const { stretch } = await Promise.race([working, gateway.failure, backend.failure]);
      const [gatewayCpu, backendCpu] = [await cpuOf(gateway), await cpuOf(backend)];
      return figuresOf(stretch.calls, stretch.elapsedMs, stretch.callMs, {
        caller: gatewayCpu - gatewayFrom,
        server: backendCpu - backendFrom,
      });
    };
    return { run, server: backend };
  });

/** A client whose calls wait for the server's handler. */
export const openWaits: OpenStage = async (peer, _level, cores, directory) =>
  stageOf(await Cast.start(peer, { clients: 1, connections: 1, waitMs }, cores, directory));

/** A client with many connections, and a call in flight on each. */
export const openConnections: OpenStage = async (peer, level, cores, directory) =>
  stageOf(await Cast.start(peer, { clients: 1, connections: level, waitMs: 0 }, cores, directory));

/** A client whose producers write lines to streams. */
export const openLines: OpenStage = (peer, _level, cores, directory) =>
  withChildren(async (start) => {
    const path = join(directory, `lines-${peer}.sock`);
    const server = await start(await programOf(peer, "lines-server", [path]), cores.server);
    const client = await start(await programOf(peer, "lines-client", [path]), cores.client);
    const run: Stage["run"] = async (level, durationMs) => {
      const cpuFrom = await cpuOf(server);
      const load = { ...loadOf(lineBytes, level, durationMs), pauseMs: linePauseMs };
      const working = client.ask({ type: "run", load }, "stretch", durationMs + graceMs);
      const { stretch } = await Promise.race([working, server.failure]);
      const serverCpu = (await cpuOf(server)) - cpuFrom;
      const { delaysMs, lines } = await server.ask({ type: "delays" }, "delays", answerTimeoutMs);
      const cpu = { caller: stretch.cpuMicros, server: serverCpu };
      return figuresOf(lines, stretch.elapsedMs, delaysMs, cpu);
    };
    return { run, server };
  });

type Start = (program: Program, core: string | null) => Promise<Child>;

/** Starts children, and stops them with the stage, or if one does not start. */
async function withChildren(open: (start: Start) => Promise<{ run: Stage["run"]; server: Child }>): Promise<Stage> {
  const started: Child[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((child) => child.stop()));
  };
  try {
    const { run, server } = await open(async (program, core) => {
      const child = new Child(program, core);
      started.push(child);
      await child.next("ready", startTimeoutMs);
      return child;
    });
    return { run, watchSilence: (silenceMs) => cpuShare(() => cpuOf(server), silenceMs), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function stageOf(cast: Cast): Stage {
  return {
    async run(level, durationMs) {
      const { stretches, serverCpuMicros } = await cast.run(loadOf(callBytes, level, durationMs));
      const [{ calls, elapsedMs, callMs, cpuMicros }] = stretches;
      return figuresOf(calls, elapsedMs, callMs, { caller: cpuMicros, server: serverCpuMicros });
    },
    watchSilence: (silenceMs) => cpuShare(() => cast.serverCpuMicros(), silenceMs),
    stop: () => cast.stop(),
  };
}

async function cpuShare(cpuMicros: () => Promise<number>, durationMs: number): Promise<number> {
  const from = performance.now();
  const cpuFrom = await cpuMicros();
  await sleep(durationMs);
  const cpu = (await cpuMicros()) - cpuFrom;
  return cpu / 1_000 / (performance.now() - from);
}

async function cpuOf(child: Child): Promise<number> {
  return (await child.ask({ type: "usage" }, "usage", answerTimeoutMs)).cpuMicros;
}

function loadOf(byteLength: number, inFlight: number, durationMs: number): Load {
  return { byteLength, inFlight, echo: false, pauseMs: 0, callsMax: null, durationMs };
}

function figuresOf(
  count: number,
  elapsedMs: number,
  tookMs: Float64Array,
  cpuMicros: { caller: number; server: number },
): LoadFigures {
  const sorted = mergeSorted([tookMs]);
  return {
    perSecond: (count / elapsedMs) * 1_000,
    p50Us: percentile(sorted, 0.5) * 1_000,
    p99Us: percentile(sorted, 0.99) * 1_000,
    callerCpuUs: cpuMicros.caller / count,
    serverCpuUs: cpuMicros.server / count,
  };
}
