/** Runs a scenario through the explorer, and says what must hold of the shared memory. */
import { withholdImmediates } from "../../src/os/timers.js";
import type { Pollable } from "../../src/carrier/poll/poller.js";
import { poller } from "../../src/carrier/poll/poller.js";
import { FRAME_ALIGNMENT, RING_DATA_OFFSET } from "../../src/memory/shm/layout.js";
import type { Program } from "./actor.js";
import type { Shared } from "./cells.js";
import { CELL_BYTES, Cells, Octets } from "./cells.js";
import type { Exploration, Model } from "./explorer.js";
import { explore } from "./explorer.js";
import { FRAGMENT_BYTES } from "./payload.js";
import type { Scenario } from "./scenario.js";
import { SERVER } from "./scenario.js";
import type { ModelCarrier } from "./side.js";
import { Side } from "./side.js";

/** Runs a scenario through the explorer. */
export function exploreScenario(scenario: Scenario): Exploration {
  const { stackTraceLimit } = Error;
  const wake = (pollable: Pollable) => {
    if (pollable.awake) return;
    pollable.awake = true;
    pollable.wake();
  };
  poller.schedule = (pollable: Pollable) => {
    const carrier = pollable as ModelCarrier;
    if (carrier.serving) carrier.servesAgain = true;
    else wake(carrier);
  };
  poller.rang = poller.wrote = scenario.servesAsleep === true ? () => undefined : wake;
  poller.remove = (pollable: Pollable) => void (pollable.awake = false);
  // An arena here grows once, to its limit: there is nothing to tell in a later turn.
  const goOn = withholdImmediates();
  Error.stackTraceLimit = 0;
  try {
    return explore(modelOf(scenario));
  } finally {
    for (const name of ["schedule", "wrote", "rang"]) Reflect.deleteProperty(poller, name);
    Reflect.deleteProperty(poller, "remove");
    goOn();
    Error.stackTraceLimit = stackTraceLimit;
  }
}

function modelOf(scenario: Scenario): Model {
  const { ringBytes, deaths, buffered, statesMax, name, invariants } = scenario;
  const shared: Shared = { scenario, cells: new Cells(scenario), octets: new Octets() };
  const { cells } = shared;
  const program = (side: number): Program => {
    const ring = () => new ArrayBuffer(RING_DATA_OFFSET + 2 * ringBytes);
    // As large as makes the sendQueue cut messages into fragments of FRAGMENT_BYTES.
    const arena = () => new ArrayBuffer(4 * FRAGMENT_BYTES);
    const copies = { ownRing: ring(), peerRing: ring(), ownArena: arena(), peerArena: arena() };
    return (port) => new Side(shared, side, copies, port).live();
  };
  const unread = (memory: readonly number[], writer: number) =>
    memory[cells.tail[writer]] - memory[cells.head[1 - writer]];
  return {
    name,
    programs: [program(0), program(1)],
    cellNames: cells.names,
    doorbells: cells.doorbell,
    ringTotals: cells.rings,
    deaths,
    buffered,
    statesMax,
    invariant(memory) {
      if (!invariants) return undefined;
      for (const side of [0, 1]) {
        const bytes = unread(memory, side);
        if (bytes < 0 || bytes > ringBytes || bytes % FRAME_ALIGNMENT !== 0)
          return `RING-1: ${bytes} bytes in a ring of ${ringBytes}`;
        const sleeps = (memory[cells.sleep[side]] + 8) >> 4;
        if (memory[cells.rings[side]] > sleeps) return `BELL-2: ${memory[cells.rings[side]]} rings in ${sleeps} sleeps`;
      }
      return undefined;
    },
    onStore(memory, side, stored, values) {
      if (!invariants) return undefined;
      const data = cells.data[side];
      for (let position = memory[cells.head[1 - side]]; position < memory[cells.tail[side]]; position += CELL_BYTES) {
        const cell = data[(position % ringBytes) / CELL_BYTES];
        if (stored.includes(cell)) return `RING-2: ${cells.names[cell]} is published, not consumed, and written again`;
      }
      for (const cursor of [cells.tail[side], cells.head[side]]) {
        const at = stored.indexOf(cursor);
        const advance = at < 0 ? 0 : values[at] - memory[cursor];
        if (advance < 0 || advance % FRAME_ALIGNMENT !== 0) return `RING-3: ${cells.names[cursor]} moves by ${advance}`;
      }
      return undefined;
    },
    onEnd(memory, side, deliveredBytes) {
      const published = memory[cells.tail[1 - side]];
      // A server drops what a dead client had asked; a client delivers all that a dead server had answered.
      if (side === SERVER ? deliveredBytes <= published : deliveredBytes === published) return undefined;
      return `${deliveredBytes} bytes of ${published} were delivered of what a dead peer had published`;
    },
  };
}
