/**
 * Waiting for a connection: the attempts to make one, the pauses between them, and the calls that wait. What a
 * connection is, and how an attempt is made, the owner knows.
 *
 * DIAL-1  There is at most one attempt at a time; who needs a connection meanwhile waits for that one.
 * DIAL-2  Attempts are made only while somebody waits. The pauses between them grow, and differ by chance from client
 *         to client, so that many who lost the same server do not come back in step. Who does not wait for a further
 *         attempt does not wait for a pause either.
 * DIAL-3  Who waits is settled exactly once: by a connection, a failure, its deadline, its signal, or the end of the
 *         owner.
 * DIAL-4  A connection over which nothing came counts as a failed attempt: a server that dies as soon as it is
 *         connected to is not connected to without a pause.
 */
import type { ContextKey } from "@connectrpc/connect";
import { Code, ConnectError, createContextKey } from "@connectrpc/connect";
import { retryabilityOf } from "../../carrier/retryability.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { onAbortOf } from "../../rpc/abort.js";
import { boundedTimeout, TIMER_MS_MAX, timedOut } from "../../rpc/deadline.js";
import { abortError } from "../../rpc/errors.js";
import { show } from "../options/kinds.js";
import { DEFAULTS } from "../options/table.js";

/** How a lost connection is made again. */
export interface ReconnectOptions {
  /**
   * Pause after the first failed attempt, in milliseconds; 10 by default. Each further one is 1.6 times as long. All
   * vary by 20%.
   */
  readonly initialDelayMs?: number;
  /** Longest pause, in milliseconds; 2000 by default. */
  readonly maxDelayMs?: number;
  /**
   * How long a call without a deadline waits for a connection, in milliseconds; 30,000 by default. `Infinity`: for
   * ever.
   */
  readonly giveUpAfterMs?: number;
}

/**
 * Context value for a single call: `createContextValues().set(waitForReady, true)` waits for the connection, also for
 * the first; `false` fails with the attempt. Overrides the transport's option of that name.
 */
export const waitForReady: ContextKey<boolean | undefined> = createContextKey<boolean | undefined>(undefined, {
  description: "whether a call waits for a connection",
});

const MULTIPLIER = 1.6;
const JITTER = 0.2;
/** Attempts that a first connection is worth if servers accept it and go away: one is being replaced. */
const FIRST_ATTEMPTS = 4;

/** @throws ConnectError `InvalidArgument` */
export function reconnectOf(options: ReconnectOptions = {}): Required<ReconnectOptions> {
  const {
    initialDelayMs = DEFAULTS.initialDelayMs,
    maxDelayMs = Math.max(DEFAULTS.maxDelayMs, initialDelayMs),
    giveUpAfterMs = DEFAULTS.giveUpAfterMs,
  } = options;
  if (maxDelayMs < initialDelayMs)
    throw new ConnectError(
      `option reconnect: maxDelayMs ${maxDelayMs} is less than initialDelayMs ${initialDelayMs}`,
      Code.InvalidArgument,
    );
  return { initialDelayMs, maxDelayMs, giveUpAfterMs };
}

/** The pause after so many failures in a row, in milliseconds. @param chance 0 to 1 */
export function pauseAfter(
  failures: number,
  { initialDelayMs, maxDelayMs }: Required<ReconnectOptions>,
  chance = Math.random(),
): number {
  return Math.min(
    Math.min(initialDelayMs * MULTIPLIER ** (failures - 1), maxDelayMs) * (1 - JITTER + 2 * JITTER * chance),
    TIMER_MS_MAX,
  );
}

interface Waiter<C> {
  /** Undefined: if there has been a connection before. */
  readonly waits: boolean | undefined;
  attempts: number;
  readonly resolve: (connection: C) => void;
  readonly reject: (error: ConnectError) => void;
}

export class Dialer<C> {
  private readonly make: () => Promise<C>;
  private readonly options: Required<ReconnectOptions>;
  private readonly onChange: () => void;
  private readonly waiters = new Set<Waiter<C>>();
  private attempting = false;
  private pause: NodeJS.Timeout | undefined;
  /** In a row. */
  private failures = 0;
  /** Some of them since somebody began to wait. */
  private failedMeanwhile = false;
  private notBefore = 0;
  private lastFailure: ConnectError | undefined;
  private everMade = false;
  private ended: ConnectError | undefined;

  /**
   * @param make one attempt; rejects with a ConnectError
   * @param onChange `state` may have changed
   */
  constructor(make: () => Promise<C>, options: Required<ReconnectOptions>, onChange: () => void) {
    this.make = make;
    this.options = options;
    this.onChange = onChange;
  }

  /** "reconnecting": an attempt has failed, and somebody waits for a further one. */
  get state(): "idle" | "connecting" | "reconnecting" {
    if (this.failedMeanwhile && this.waiters.size > 0) return "reconnecting";
    return this.attempting ? "connecting" : this.waiters.size > 0 ? "reconnecting" : "idle";
  }

  /** How many wait. */
  get waiting(): number {
    return this.waiters.size;
  }

  /** Why the last attempt failed; undefined once one has succeeded. */
  get failure(): ConnectError | undefined {
    return this.lastFailure;
  }

  /**
   * A connection, as soon as there is one.
   * @param timeoutMs what is left of the call's; undefined: no deadline
   * @param waits whether it waits for further attempts if one fails; undefined: if there has been a connection before.
   *   Nobody waits where waiting cannot help
   * @throws ConnectError
   */
  wait(timeoutMs: number | undefined, signal: AbortSignal | undefined, waits: boolean | undefined): Promise<C> {
    if (this.ended !== undefined) return Promise.reject(this.ended);
    if (waits !== undefined && typeof waits !== "boolean")
      return Promise.reject(
        new ConnectError(
          `context value waitForReady: expected true or false, not ${show(waits)}`,
          Code.InvalidArgument,
        ),
      );
    if (signal?.aborted === true) return Promise.reject(abortError(signal));
    return new Promise<C>((resolve, reject) => {
      const leave = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this.waiters.delete(waiter);
      };
      const waiter: Waiter<C> = {
        waits,
        attempts: 0,
        resolve(connection) {
          leave();
          resolve(connection);
        },
        reject(error) {
          leave();
          reject(error);
        },
      };
      const onAbort = () => this.fail(waiter, abortError(signal!));
      const { giveUpAfterMs } = this.options;
      let timer: NodeJS.Timeout | undefined;
      if (timeoutMs !== undefined) timer = setTimeout(() => this.fail(waiter, this.late()), timeoutMs);
      else if ((waits ?? this.everMade) && boundedTimeout(giveUpAfterMs) !== undefined)
        timer = setTimeout(() => this.fail(waiter, this.inVain(giveUpAfterMs)), giveUpAfterMs);
      if (signal !== undefined) onAbortOf(signal, onAbort);
      this.waiters.add(waiter);
      this.dial(!(waits ?? this.everMade));
    });
  }

  /** A connection was of use: the next one may be tried for at once. */
  succeeded(): void {
    this.failures = this.notBefore = 0;
  }

  /** A connection, or an attempt, was in vain (DIAL-4). */
  failed(): void {
    this.failures++;
    this.notBefore = nowMs() + pauseAfter(this.failures, this.options);
  }

  /** Nobody gets a connection any more. */
  close(reason: ConnectError): void {
    this.ended = reason;
    this.stopPausing();
    for (const waiter of [...this.waiters]) waiter.reject(reason);
  }

  private dial(now: boolean): void {
    if (this.attempting) return;
    const leftMs = now ? 0 : this.notBefore - nowMs();
    if (leftMs <= 0) {
      this.stopPausing();
      this.attempt();
    } else {
      this.pause ??= inRootContext(() => setTimeout(() => this.attempt(), leftMs));
      this.onChange();
    }
  }

  private attempt(): void {
    this.pause = undefined;
    this.attempting = true;
    this.onChange();
    inRootContext(this.make).then(
      (connection) => this.onMade(connection),
      (error: unknown) => this.onFailed(ConnectError.from(error, Code.Internal)),
    );
  }

  private onMade(connection: C): void {
    this.attempting = this.failedMeanwhile = false;
    this.everMade = true;
    this.lastFailure = undefined;
    for (const waiter of [...this.waiters]) waiter.resolve(connection);
    this.onChange();
  }

  private onFailed(error: ConnectError): void {
    this.attempting = false;
    this.lastFailure = error;
    this.failed();
    const retryability = retryabilityOf(error);
    for (const waiter of [...this.waiters]) {
      waiter.attempts++;
      const goesOn =
        waiter.waits ?? (this.everMade || (retryability === "draining" && waiter.attempts < FIRST_ATTEMPTS));
      if (!goesOn || retryability === "permanent") waiter.reject(error);
    }
    this.failedMeanwhile = this.waiters.size > 0;
    if (this.waiters.size > 0) this.dial(false);
    else this.onChange();
  }

  private fail(waiter: Waiter<C>, error: ConnectError): void {
    waiter.reject(error);
    if (this.waiters.size > 0) return;
    this.failedMeanwhile = false;
    this.stopPausing();
    this.onChange();
  }

  private stopPausing(): void {
    clearTimeout(this.pause);
    this.pause = undefined;
  }

  private late(): ConnectError {
    return timedOut(
      ` before there was a connection${this.lastFailure === undefined ? "" : `; the last attempt failed: ${this.lastFailure.rawMessage}`}`,
    );
  }

  private inVain(waitedMs: number): ConnectError {
    const { lastFailure } = this;
    const text = lastFailure === undefined ? "no attempt to connect has come to an end" : lastFailure.rawMessage;
    return new ConnectError(
      `${text} (waited ${waitedMs} ms for a connection)`,
      Code.Unavailable,
      undefined,
      undefined,
      lastFailure,
    );
  }
}
