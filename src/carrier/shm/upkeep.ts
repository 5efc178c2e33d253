/** What happens to an arena's memory in the background: it is freed when sends starve, and returned when it is idle. */
import { COMMIT_STEP_BYTES } from "../../memory/shm/arena.js";
import { collectSoon } from "../../memory/v8/gc.js";
import type { Delayed, Driver } from "../poll/poller.js";
import type { Blocks } from "./blocks.js";

/** How long to wait for blocks before the peer is told, at first. Each further wait is twice as long. */
const STARVED_AFTER_MS = 10;
const STARVED_AGAIN_MS_MAX = 1000;
/** An arena that was not used for this long returns its memory. */
const TRIM_AFTER_MS = 10_000;

/** Garbage may hold the blocks that a send waits for. Then garbage is collected here, and the peer is told. */
export class StarvationWatch {
  private readonly driver: Driver;
  private readonly blocks: Blocks;
  private readonly isWaiting: () => boolean;
  private readonly onStarved: () => void;
  private delayed: Delayed | undefined;

  /**
   * @param isWaiting whether a send still waits for blocks
   * @param onStarved called when no block was released for some time
   */
  constructor(driver: Driver, blocks: Blocks, isWaiting: () => boolean, onStarved: () => void) {
    this.driver = driver;
    this.blocks = blocks;
    this.isWaiting = isWaiting;
    this.onStarved = onStarved;
  }

  /** A send waits for blocks. */
  start(): void {
    if (this.delayed === undefined) this.watch(STARVED_AFTER_MS);
  }

  private watch(delayMs: number): void {
    const { blocks } = this;
    const { releases } = blocks;
    this.delayed = this.driver.after(delayMs, () => {
      this.delayed = undefined;
      if (!this.isWaiting()) return;
      const isStarving = releases === blocks.releases;
      if (isStarving) {
        if (blocks.holdsOwn) collectSoon();
        this.onStarved();
      }
      this.watch(isStarving ? Math.min(delayMs * 2, STARVED_AGAIN_MS_MAX) : STARVED_AFTER_MS);
    });
  }

  stop(): void {
    this.delayed?.cancel();
  }
}

/** Returns an arena's memory to the system when nothing has used it for a while. */
export class Trimming {
  private readonly driver: Driver;
  private readonly blocks: Blocks;
  private readonly onError: (error: unknown) => void;
  private delayed: Delayed | undefined;

  constructor(driver: Driver, blocks: Blocks, onError: (error: unknown) => void) {
    this.driver = driver;
    this.blocks = blocks;
    this.onError = onError;
  }

  /** The connection goes to sleep. */
  start(): void {
    const { blocks } = this;
    const { arena } = blocks;
    if (this.delayed !== undefined || arena.committedBytes <= COMMIT_STEP_BYTES) return;
    const { allocations } = arena;
    this.delayed = this.driver.after(TRIM_AFTER_MS, () => {
      this.delayed = undefined;
      try {
        // The last blocks may have been released after this side went to sleep.
        blocks.collectReleases();
        if (arena.allocations === allocations) arena.trim();
        this.start();
      } catch (error) {
        this.onError(error);
      }
    });
  }

  stop(): void {
    this.delayed?.cancel();
  }
}
