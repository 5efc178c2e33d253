/**
 * Loans: memory that a sender fills before it sends it. A loan belongs to whoever asked for it until it is sent,
 * returned or garbage; sending takes all of it away, whatever part was sent.
 */
import { moveBuffer } from "../v8/array-buffer-transfer.js";
import type { BlockUser, BlockView, BlockViews } from "./block-views.js";
import type { Origin } from "./origin.js";
import { ephemeral, setOrigin } from "./origin.js";

/** The arena that a loan's block lies in. */
export interface LoanHome {
  readonly views: BlockViews;
  /** Nobody uses the block through the loan any more: one hold on it ends. */
  dropBlock(unit: number): void;
}

const nothing = () => undefined;

const heapLoans = new FinalizationRegistry<Loan>((loan) => loan.onCollected());

export class Loan implements Origin, BlockUser {
  readonly kind = "loan";
  gone: string | undefined;
  view: BlockView | undefined;
  readonly byteLength: number;
  /** Undefined: it lies on the heap. */
  readonly home: LoanHome | undefined;
  readonly unit: number;
  private live = true;

  private constructor(byteLength: number, home: LoanHome | undefined, unit: number) {
    this.byteLength = byteLength;
    this.home = home;
    this.unit = unit;
    ephemeral.count++;
  }

  /** A loan of the block at `unit`, which the home holds once for it. */
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

  /** A loan where there is no shared memory: the same rules, and one copy when it is sent. */
  static onHeap(byteLength: number): Uint8Array {
    // Zeros: what malloc has lying about may be data of anybody.
    const buffer = new ArrayBuffer(byteLength);
    // An empty ArrayBuffer cannot be seen to be detached.
    if (byteLength > 0) {
      const loan = new Loan(byteLength, undefined, 0);
      setOrigin(buffer, loan);
      heapLoans.register(buffer, loan);
    }
    return new Uint8Array(buffer);
  }

  /**
   * Takes a loan in a block away from its user. The hold on the block passes to the caller, who has to call
   * `emptyViews` before the user's code runs again.
   * @param why to be read after "its memory is gone: "
   * @throws Error if the user has moved the memory away
   */
  take(buffer: ArrayBuffer, why: string): void {
    if (!this.live || buffer.byteLength === 0)
      throw new Error(`its memory is gone: ${this.gone ?? "the loan was transferred"}`);
    this.end(why);
  }

  /** All views on a loan that was taken are empty from now on. */
  emptyViews(buffer: ArrayBuffer): void {
    this.home?.views.detach(buffer, this);
  }

  /**
   * Like `take`, where the bytes have to be copied because the block is of no use: they, and what to call when they
   * were read.
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

  /** Returns an unsent loan. Nothing happens if it is not the user's any more. */
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
