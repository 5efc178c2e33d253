/**
 * A loan is memory that a user fills before sending it. It belongs to the user until it is sent, returned or collected
 * as garbage. Sending any part of a loan takes all of it away.
 */
import { moveBuffer } from "../v8/array-buffer-transfer.js";
import type { BlockUser, BlockView, BlockViews } from "./block-views.js";
import type { Origin } from "./origin.js";
import { ephemeral, setOrigin } from "./origin.js";

/** The arena of a loan's block. */
export interface LoanHome {
  readonly views: BlockViews;
  /** Ends the loan's hold on its block. */
  dropBlock(unit: number): void;
}

const nothing = () => undefined;

const heapLoans = new FinalizationRegistry<Loan>((loan) => loan.onCollected());

export class Loan implements Origin, BlockUser {
  readonly kind = "loan";
  gone: string | undefined;
  view: BlockView | undefined;
  readonly byteLength: number;
  /** Undefined if the loan is on the heap. */
  readonly home: LoanHome | undefined;
  readonly unit: number;
  private live = true;

  private constructor(byteLength: number, home: LoanHome | undefined, unit: number) {
    this.byteLength = byteLength;
    this.home = home;
    this.unit = unit;
    ephemeral.count++;
  }

  /** Makes a loan of the block at `unit`. The block has one hold for it. */
  static ofBlock(home: LoanHome, unit: number, byteLength: number): Uint8Array {
    const loan = new Loan(byteLength, home, unit);
    try {
      const buffer = home.views.open(unit, 0, byteLength, loan);
      setOrigin(buffer, loan);
      return new Uint8Array(buffer);
    } catch (error) {
      loan.end("");
      home.dropBlock(unit);
      throw error;
    }
  }

  /** Makes a loan without shared memory. The same rules apply, and sending it costs one copy. */
  static onHeap(byteLength: number): Uint8Array {
    // Filled with zeros, because fresh memory from malloc may have data of other code.
    const buffer = new ArrayBuffer(byteLength);
    // An empty ArrayBuffer looks the same before and after it is detached.
    if (byteLength > 0) {
      const loan = new Loan(byteLength, undefined, 0);
      setOrigin(buffer, loan);
      heapLoans.register(buffer, loan);
    }
    return new Uint8Array(buffer);
  }

  /**
   * Takes a loan in a block away from its user. The hold on the block passes to the caller, which has to call
   * `emptyViews` before user code runs again.
   * @param why follows "its memory is gone: "
   * @throws Error if the user has moved the memory away
   */
  take(buffer: ArrayBuffer, why: string): void {
    if (!this.live || buffer.byteLength === 0)
      throw new Error(`its memory is gone: ${this.gone ?? "the loan was transferred"}`);
    this.end(why);
  }

  /** Empties all views on a loan that was taken. */
  emptyViews(buffer: ArrayBuffer): void {
    this.home?.views.detach(buffer, this);
  }

  /**
   * Like `take`, for bytes that have to be copied because the block cannot be sent.
   * @returns the bytes, and a function to call when they are read
   * @throws Error if the user has moved the memory away
   */
  takeToCopy(buffer: ArrayBuffer, why: string): { readonly bytes: Uint8Array; readonly done: () => void } {
    const { home } = this;
    const moved =
      !this.live || buffer.byteLength === 0
        ? undefined
        : home === undefined
          ? { bytes: new Uint8Array(moveBuffer(buffer)), done: nothing }
          : home.views.move(buffer, this);
    if (moved === undefined) throw new Error(`its memory is gone: ${this.gone ?? "the loan was transferred"}`);
    this.end(why);
    if (home === undefined) return moved;
    const done = () => {
      moved.done();
      home.dropBlock(this.unit);
    };
    return { bytes: moved.bytes, done };
  }

  /** Returns an unsent loan. Does nothing if the loan does not belong to the user any more. */
  release(buffer: ArrayBuffer, why: string): void {
    if (!this.live || buffer.byteLength === 0) return;
    this.takeToCopy(buffer, why).done();
  }

  onCollected(): void {
    if (!this.live) return;
    this.end("");
    this.home?.dropBlock(this.unit);
  }

  private end(why: string): void {
    this.live = false;
    this.gone = why;
    ephemeral.count--;
  }
}
