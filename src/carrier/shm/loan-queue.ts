/** Loans that wait for room in the arena, in order of arrival. */
import { Code, ConnectError } from "@connectrpc/connect";
import { Violation } from "../../memory/shm/violation.js";
import type { Blocks } from "./blocks.js";

interface Waiting {
  readonly byteLength: number;
  readonly resolve: (bytes: Uint8Array) => void;
  readonly reject: (error: unknown) => void;
}

export class LoanQueue {
  private readonly blocks: Blocks;
  private readonly waiting = new Set<Waiting>();
  private readonly onHeadGone: () => void;

  /** @param onHeadGone a request was canceled, so there may be room for those behind it */
  constructor(blocks: Blocks, onHeadGone: () => void) {
    this.blocks = blocks;
    this.onHeadGone = onHeadGone;
  }

  get size(): number {
    return this.waiting.size;
  }

  /** @param onWaiting called if it has to wait. @throws ConnectError, see `Carrier.loan` */
  take(byteLength: number, makeSignal: () => AbortSignal, onWaiting: () => void): Promise<Uint8Array> {
    const { blocks } = this;
    if (byteLength > blocks.blockBytesMax) {
      return Promise.reject(
        new ConnectError(
          `a loan of ${byteLength} bytes is larger than the arena allows (${blocks.blockBytesMax} bytes); raise the option memory.arenaBytes, or use region(${byteLength})`,
          Code.ResourceExhausted,
        ),
      );
    }
    if (this.waiting.size === 0) {
      const bytes = blocks.loan(byteLength);
      if (bytes !== undefined) return Promise.resolve(bytes);
    }
    const signal = makeSignal();
    if (signal.aborted) return Promise.reject(this.tooLate(byteLength, signal));
    return new Promise((resolve, reject) => {
      const entry: Waiting = {
        byteLength,
        resolve: (bytes) => {
          signal.removeEventListener("abort", onAbort);
          resolve(bytes);
        },
        reject,
      };
      const onAbort = () => {
        this.waiting.delete(entry);
        reject(this.tooLate(byteLength, signal));
        if (this.waiting.size > 0) this.onHeadGone();
      };
      signal.addEventListener("abort", onAbort, { once: true });
      this.waiting.add(entry);
      onWaiting();
    });
  }

  /** Serves requests for which there is room now. True if there was one. */
  serve(): boolean {
    let served = false;
    for (const entry of this.waiting) {
      let bytes: Uint8Array | undefined;
      try {
        bytes = this.blocks.loan(entry.byteLength);
      } catch (error) {
        if (error instanceof Violation) throw error;
        this.waiting.delete(entry);
        entry.reject(error);
        continue;
      }
      if (bytes === undefined) break;
      this.waiting.delete(entry);
      entry.resolve(bytes);
      served = true;
    }
    return served;
  }

  /** The connection is over. */
  rejectAll(error: ConnectError): void {
    for (const entry of this.waiting) entry.reject(error);
    this.waiting.clear();
  }

  private tooLate(byteLength: number, signal: AbortSignal): ConnectError {
    const reason = ConnectError.from(signal.reason);
    const code = reason.code === Code.Canceled ? Code.Canceled : Code.ResourceExhausted;
    return new ConnectError(
      `no room for a loan of ${byteLength} bytes (${reason.rawMessage}): ${this.blocks.describe()}`,
      code,
    );
  }
}
