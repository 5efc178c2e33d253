/**
 * Regions: memory of their own, outside of every arena, for values that are larger than one or that several peers get.
 * A region is a memfd that its user fills. When it is first sent it is sealed against everybody, this process included,
 * and then only its descriptor travels.
 *
 * REGION-1  A region's memory is committed before its user has it, so no store in it can fail; and it counts in this
 *           process's budget until nobody here has it any more. Peers that have it keep it alive beyond that, on this
 *           process's account.
 * REGION-2  A descriptor is passed on only of a region that is sealed: what a peer has mapped never changes. The user's
 *           own mapping is private from then on.
 */
import type { Addon } from "../../os/addon.js";
import { setImmediate } from "../../os/timers.js";
import { COMMIT_STEP_BYTES } from "../shared/arena.js";
import type { CommitBudget } from "../shared/budget.js";
import type { Origin } from "./origin.js";
import { ephemeral, setOrigin } from "./origin.js";
import { keepNewInThread, letMove } from "../v8/array-buffer-transfer.js";

/** There is no memory for a region. */
export class NoMemoryError extends Error {
  override readonly name = "NoMemoryError";
}

/** What stands behind a region. Does not refer to its ArrayBuffer. */
export class Region implements Origin {
  readonly kind = "region";
  gone: string | undefined;
  private readonly addon: Addon;
  private readonly memory: RegionMemory;
  private state: "open" | "sealed" | "unsealable" = "open";
  private live = true;

  private constructor(addon: Addon, memory: RegionMemory) {
    this.addon = addon;
    this.memory = memory;
    // Released before it is sent, it would be gone.
    ephemeral.count++;
  }

  /**
   * A region of `byteLength` bytes, at least 1. Its content is zeros.
   * @throws NoMemoryError if the budget or the machine has not as much; SystemError
   */
  static async create(addon: Addon, budget: CommitBudget, byteLength: number): Promise<Uint8Array> {
    const pageBytes = addon.pageSize();
    const memory = await RegionMemory.commit(addon, budget, Math.ceil(byteLength / pageBytes) * pageBytes);
    try {
      const buffer = keepNewInThread(addon.mapSegment(memory.descriptor, memory.byteLength, 0, true));
      const region = new Region(addon, memory);
      setOrigin(buffer, region);
      collected.register(buffer, region);
      return new Uint8Array(buffer, 0, byteLength);
    } catch (error) {
      memory.unuse();
      throw error;
    }
  }

  /**
   * Seals the region, if it is not; from now on it can be passed on, until `unuse`.
   * @returns its descriptor; undefined if it cannot be sealed now, because something maps or uses its memory besides:
   * then it has to be copied
   */
  use(buffer: ArrayBuffer): number | undefined {
    if (!this.live || this.state === "unsealable" || buffer.byteLength !== this.memory.byteLength) return undefined;
    if (this.state === "open") {
      try {
        this.addon.sealRegion(this.memory.descriptor, buffer);
        this.state = "sealed";
      } catch (error) {
        // EBUSY passes: an operation in the background that reads or writes the pages.
        if ((error as NodeJS.ErrnoException).code !== "EBUSY") this.state = "unsealable";
        return undefined;
      }
    }
    this.memory.use();
    return this.memory.descriptor;
  }

  unuse(): void {
    this.memory.unuse();
  }

  /** Ends the region: all views on it are empty from now on. What was sent of it stays with whoever has it. */
  release(buffer: ArrayBuffer, why: string): void {
    if (!this.live || buffer.byteLength === 0) return;
    letMove(buffer);
    this.addon.detachMapping(buffer);
    this.gone = why;
    this.end();
  }

  end(): void {
    if (!this.live) return;
    this.live = false;
    ephemeral.count--;
    this.memory.unuse();
  }
}

const collected = new FinalizationRegistry<Region>((region) => region.end());

/** The memfd and its share of the budget, for as long as anybody here needs them. */
class RegionMemory {
  readonly descriptor: number;
  readonly byteLength: number;
  private readonly addon: Addon;
  private readonly budget: CommitBudget;
  private committedBytes = 0;
  private uses = 1;

  private constructor(addon: Addon, budget: CommitBudget, byteLength: number) {
    this.addon = addon;
    this.budget = budget;
    this.byteLength = byteLength;
    this.descriptor = addon.createSegment("isthmus-region", byteLength);
  }

  static async commit(addon: Addon, budget: CommitBudget, byteLength: number): Promise<RegionMemory> {
    const memory = new RegionMemory(addon, budget, byteLength);
    try {
      while (memory.committedBytes < byteLength) {
        await nextTurn();
        memory.commitStep();
      }
      return memory;
    } catch (error) {
      memory.unuse();
      throw error;
    }
  }

  private commitStep(): void {
    const bytes = Math.min(COMMIT_STEP_BYTES, this.byteLength - this.committedBytes);
    if (!this.budget.take(bytes)) throw new NoMemoryError(this.budget.explanation);
    try {
      this.addon.commitPages(this.descriptor, this.committedBytes, bytes);
    } catch (error) {
      this.budget.give(bytes);
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === "ENOSPC" || code === "ENOMEM") throw new NoMemoryError(message, { cause: error });
      throw error;
    }
    this.committedBytes += bytes;
  }

  use(): void {
    this.uses++;
  }

  unuse(): void {
    if (--this.uses > 0) return;
    this.addon.closeDescriptor(this.descriptor);
    this.budget.give(this.committedBytes);
  }
}

let turn: Promise<void> = Promise.resolve();

/**
 * A turn of the event loop of one's own: several regions that are made at once commit one step per turn in all
 * (ARENA-3).
 */
function nextTurn(): Promise<void> {
  turn = turn.then(() => new Promise((resolve) => setImmediate(resolve)));
  return turn;
}
