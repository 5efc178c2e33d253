/** What happens to an arena's memory in the background: it is freed when sends starve, and returned when it is idle. */
import { COMMIT_STEP_BYTES } from "../../memory/shm/arena.js";
import { collectSoon } from "../../memory/v8/gc.js";
import { nowMs, setImmediate } from "../../os/timers.js";
import type { Delayed, Driver } from "../poll/poller.js";
import type { Blocks } from "./blocks.js";

/** How long to wait for blocks before the peer is told, at first. Each further wait is twice as long. */
const STARVED_AFTER_MS = 10;
const STARVED_AGAIN_MS_MAX = 1000;
/** Pauses between collections for a peer of whose arena little is leased, in milliseconds. */
const LITTLE_PAUSE_MS_MIN = 1000;
const LITTLE_PAUSE_MS_MAX = 60_000;
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

/**
 * The peer says that it waits for blocks.
 *
 * STARVED-1  If this side leases little of the peer's arena, collecting garbage for it would hardly help the peer. Then
 *            it is done once, and again after pauses that grow. So a peer with one lease cannot make this side collect
 *            all the time.
 */
export class StarvedPeer {
  private readonly blocks: Pick<Blocks, "holdsPeers" | "peerLeases">;
  private readonly collect: () => void;
  private pauseMs = LITTLE_PAUSE_MS_MIN;
  private notBefore = -Infinity;

  /** @param collect collects garbage, in a later turn: it takes long, and other frames wait */
  constructor(
    blocks: Pick<Blocks, "holdsPeers" | "peerLeases">,
    collect: () => void = () => void setImmediate(collectSoon),
  ) {
    this.blocks = blocks;
    this.collect = collect;
  }

  onStarved(): void {
    const { blocks } = this;
    if (!blocks.holdsPeers) return;
    if (blocks.peerLeases.isMuch) {
      this.pauseMs = LITTLE_PAUSE_MS_MIN;
      return this.collect();
    }
    const now = nowMs();
    if (now < this.notBefore) return;
    this.notBefore = now + this.pauseMs;
    this.pauseMs = Math.min(this.pauseMs * 2, LITTLE_PAUSE_MS_MAX);
    this.collect();
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

  /** Others need memory: returns it at once, if nothing uses it. */
  trimNow(): void {
    try {
      this.blocks.collectReleases();
      this.blocks.arena.trim();
    } catch (error) {
      this.onError(error);
    }
  }

  stop(): void {
    this.delayed?.cancel();
  }
}
