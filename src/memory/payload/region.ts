/**
 * A region is memory outside of every arena, for values that are larger than an arena or that several peers receive. It
 * is a memfd that its user fills. When it is first sent, it is sealed against all processes including this one, and
 * then only its descriptor travels.
 *
 * REGION-1  A region's memory is committed before its user gets it, so a store in it cannot fail. It counts in this
 *           process's budget until nothing in this process uses it. A peer can keep it alive beyond that, and the
 *           memory is then still charged to this process.
 * REGION-2  Only the descriptor of a sealed region is passed on, so the memory that a peer has mapped never changes.
 *           The user's own mapping is private from then on.
 */
import type { Addon } from "../../os/addon.js";
import { setImmediate } from "../../os/timers.js";
import { COMMIT_STEP_BYTES } from "../shm/arena.js";
import type { CommitBudget } from "../shm/budget.js";
import type { Origin } from "./origin.js";
import { ephemeral, setOrigin } from "./origin.js";
import { keepNewInThread, letMove } from "../v8/array-buffer-transfer.js";

/** Thrown if there is no memory for a region. */
export class NoMemoryError extends Error {
  override readonly name = "NoMemoryError";
}

/** The state of a region. It does not refer to the region's ArrayBuffer. */
export class Region implements Origin {
  readonly kind = "region";
  gone: string | undefined;
  /** The size that its user asked for; its memory is a whole number of pages. */
  readonly byteLength: number;
  private readonly addon: Addon;
  private readonly memory: RegionMemory;
  private state: "open" | "sealed" | "unsealable" = "open";
  private live = true;

  private constructor(addon: Addon, memory: RegionMemory, byteLength: number) {
    this.byteLength = byteLength;
    this.addon = addon;
    this.memory = memory;
    // A message that is kept to be encoded later would lose the region's bytes if the region is released before.
    ephemeral.count++;
  }

  /**
   * Creates a region of `byteLength` bytes (at least 1), filled with zeros.
   * @throws NoMemoryError if the budget or the machine does not have that much memory; SystemError
   */
  static async create(addon: Addon, budget: CommitBudget, byteLength: number): Promise<Uint8Array> {
    const pageBytes = addon.pageSize();
    const memory = await RegionMemory.commit(addon, budget, Math.ceil(byteLength / pageBytes) * pageBytes);
    try {
      const buffer = keepNewInThread(addon.mapSegment(memory.descriptor, memory.byteLength, 0, true));
      const region = new Region(addon, memory, byteLength);
      setOrigin(buffer, region);
      collected.register(buffer, region);
      return new Uint8Array(buffer, 0, byteLength);
    } catch (error) {
      memory.unuse();
      throw error;
    }
  }

  /**
   * Seals the region if it is not sealed, and keeps its descriptor open until `unuse`.
   * @returns the descriptor; undefined if the region has to be copied, because something else maps or uses its memory
   *   so that it cannot be sealed now
   */
  use(buffer: ArrayBuffer): number | undefined {
    if (!this.live || this.state === "unsealable" || buffer.byteLength !== this.memory.byteLength) return undefined;
    if (this.state === "open") {
      try {
        this.addon.sealRegion(this.memory.descriptor, buffer);
        this.state = "sealed";
      } catch (error) {
        // EBUSY is temporary: an operation in the background reads or writes the pages.
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

  /** Ends the region: all views on it become empty. Peers that received it keep it. */
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

/** The memfd and its share of the budget, for as long as anything in this process uses them. */
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
 * Waits for a turn of the event loop that no other caller gets. So several regions that are created at once commit one
 * step per turn in total (ARENA-3).
 */
function nextTurn(): Promise<void> {
  turn = turn.then(() => new Promise((resolve) => setImmediate(resolve)));
  return turn;
}
