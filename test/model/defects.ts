/**
 * Carriers that are broken on purpose, one rule each: what the model is worth is what it finds in them.
 */
import type { Bell, Sleeper } from "../../src/memory/shm/doorbell.js";
import { AWAIT } from "../../src/memory/shm/doorbell.js";
import { WORD } from "../../src/memory/shm/layout.js";
import type { CarrierParts, Defect, RingParts } from "./scenario.js";

const PARKED = 8;

/** BELL-2: "parked" as a yes or no, and a memory of having rung, instead of the number of the sleep. */
export const parkedFlag: Defect = {
  patch(_carrier, inner) {
    inner.sleeper = new FlagSleeper(inner.reader);
    inner.bell = new FlagBell(inner.reader);
  },
};

/** BELL-1: the second look comes before the sleep word is stored instead of after. */
export const looksBeforeParking: Defect = {
  patch(carrier, inner) {
    carrier.tryPark = () => {
      if (carrier.hasWork()) return false;
      inner.sleeper.park(inner.awaiting);
      return true;
    };
  },
};

/** The second look is only for frames, not for room in the ring and in the arena. */
export const looksForFramesOnly: Defect = {
  patch(carrier, inner) {
    const hasWork = carrier.hasWork.bind(carrier);
    carrier.hasWork = () => {
      const { awaiting } = inner;
      inner.awaiting = AWAIT.frames;
      try {
        return hasWork();
      } finally {
        inner.awaiting = awaiting;
      }
    };
  },
};

/** Frames reach the ring after the tail that announces them. */
export const publishesBeforeWriting: Defect = { storesFramesLate: true };

/** RING-2: the head passes frames that are not copied out yet. */
export const consumesBeforeReading: Defect = {
  patch(_carrier, inner) {
    const { frameReader, reader } = inner;
    const take = frameReader.take.bind(frameReader);
    frameReader.take = (index, available) => {
      reader.words.store(reader.ownWords, WORD.head, reader.head + available);
      return take(index, available);
    };
  },
};

/** BELL-3: the doorbell's bytes are taken after waking and draining. */
export const takesDoorbellLate: Defect = { takesLate: true };

/** POLL-6: a side that is served asleep sleeps on with the word of before, whatever it waits for by then. */
export const keepsItsSleepWord: Defect = {
  patch(carrier, inner) {
    Object.assign(inner, { declareWait: () => (inner.awaiting = inner.sendQueueAwaits) });
    carrier.requestPump = () => undefined;
  },
};

export const neverRingsForSpace: Defect = { patch: (_carrier, inner) => neverRingsFor(inner, AWAIT.space) };

export const neverRingsForBlocks: Defect = { patch: (_carrier, inner) => neverRingsFor(inner, AWAIT.blocks) };

/** Nothing is broken here but the memory: for runs in which all stores are buffered (WORDS-1). */
export const onlyTheMemory: Defect = {};

function neverRingsFor(inner: CarrierParts, unheard: number): void {
  const { bell } = inner;
  inner.bell = { mustRing: (event) => event !== unheard && bell.mustRing(event) };
}

class FlagSleeper implements Pick<Sleeper, "park" | "wake" | "asleep" | "sleeps"> {
  asleep = false;
  sleeps = 0;
  private readonly parts: RingParts;

  constructor(parts: RingParts) {
    this.parts = parts;
  }

  park(awaiting: number): void {
    this.asleep = true;
    this.sleeps++;
    this.parts.words.store(this.parts.ownWords, WORD.sleep, PARKED | awaiting);
  }

  wake(): void {
    if (!this.asleep) return;
    this.asleep = false;
    this.parts.words.store(this.parts.ownWords, WORD.sleep, 0);
  }
}

class FlagBell implements Pick<Bell, "mustRing"> {
  private rung = false;
  private readonly parts: RingParts;

  constructor(parts: RingParts) {
    this.parts = parts;
  }

  mustRing(event: number): boolean {
    const word = this.parts.words.load(this.parts.peerWords, WORD.sleep);
    if ((word & PARKED) === 0) this.rung = false;
    if (this.rung || (word & PARKED) === 0 || (word & event) === 0) return false;
    this.rung = true;
    return true;
  }
}
