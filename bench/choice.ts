/** What the command line asks for: which peers, which scenarios, which parts. */
import { nativePeerNames, nodePeerNames, peerNames, type PeerName } from "./peers/peer.js";
import {
  nativeScenarios,
  quickNativeScenarios,
  quickScenarios,
  scenarios,
  smokeNativeScenarios,
  smokeScenarios,
  type Scenario,
} from "./scenarios.js";

export type Mode = "full" | "quick" | "smoke";

/** What is measured besides scenarios. */
export const parts = ["payloads", "streams", "blocking", "services", "codec"] as const;
export type Part = (typeof parts)[number];

export interface Choice {
  readonly peers: readonly PeerName[];
  readonly scenarios: readonly Scenario[];
  readonly parts: readonly Part[];
}

const scenariosOf: Record<Mode, readonly Scenario[]> = {
  full: scenarios,
  quick: quickScenarios,
  smoke: smokeScenarios,
};
const nativeScenariosOf: Record<Mode, readonly Scenario[]> = {
  full: nativeScenarios,
  quick: quickNativeScenarios,
  smoke: smokeNativeScenarios,
};

/** What the native peers are compared with. */
const besideNative: readonly PeerName[] = ["isthmus", "isthmus-loans", "isthmus-socket", "grpc-js", "net"];

/**
 * Names of parts choose those alone; names of peers choose who takes part in what is chosen otherwise; all other names
 * choose scenarios that contain them.
 */
export function choose(only: readonly string[], mode: Mode, native: boolean): Choice {
  const chosenParts = parts.filter((part) => only.includes(part));
  const chosenPeers = peerNames.filter((peer) => only.includes(peer));
  const fragments = only.filter((name) => !isOneOf(parts, name) && !isOneOf(peerNames, name));
  const all = (native ? nativeScenariosOf : scenariosOf)[mode];
  const unknown = fragments.find((fragment) => !all.some(({ name }) => name.includes(fragment)));
  if (unknown !== undefined)
    throw new Error(
      `--only ${unknown}: neither ${parts.join(", ")}, nor a peer, nor part of a scenario's name (see --list)`,
    );
  const everyPeer = native ? [...besideNative, ...nativePeerNames] : nodePeerNames;
  const matching = all.filter(({ name }) => fragments.some((fragment) => name.includes(fragment)));
  return {
    peers: chosenPeers.length > 0 ? chosenPeers : everyPeer,
    scenarios: fragments.length > 0 ? matching : chosenParts.length > 0 ? [] : all,
    parts: only.length === 0 && !native ? parts : chosenParts,
  };
}

function isOneOf(names: readonly string[], name: string): boolean {
  return names.includes(name);
}
