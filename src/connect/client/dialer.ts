/**
 * Waiting for a connection: the attempts to make one, the pauses between them, and the calls that wait. The owner knows
 * what a connection is and how an attempt is made.
 *
 * DIAL-1  There is at most one attempt at a time. Calls that need a connection meanwhile wait for that attempt.
 * DIAL-2  Attempts are made only while calls wait. The pauses between them grow and vary randomly, so that clients that
 *         lost the same server do not return in step. A call that does not wait for further attempts does not wait for
 *         a pause either.
 * DIAL-3  A waiting call is settled exactly once: by a connection, a failure, its deadline, its signal, or the end of
 *         the owner.
 * DIAL-4  A connection over which nothing arrived counts as a failed attempt: there is a pause before the next
 *         connection to a server that dies as soon as it is connected to.
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
import { DEFAULTS } from "../options/defaults.js";
import type { ReconnectOptions } from "../types/client.js";

/**
 * Key of the context value that overrides a transport's option `waitForReady` for a single call. `true` waits for a
 * connection, even for the first one. `false` fails together with the attempt.
 *
 * @example
 * ```ts
 * const contextValues = createContextValues().set(waitForReady, true);
 * await client.echo({ text: "hi" }, { contextValues });
 * ```
 */
export const waitForReady: ContextKey<boolean | undefined> = createContextKey<boolean | undefined>(undefined, {
  description: "whether a call waits for a connection",
});

const MULTIPLIER = 1.6;
const JITTER = 0.2;
/** Attempts to make a first connection while servers accept it and go away, as when one is being replaced. */
const FIRST_ATTEMPTS = 4;

/** @throws ConnectError `InvalidArgument` if the delays contradict each other */
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

/** The pause after this many failures in a row, in milliseconds. @param chance 0 to 1 */
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
  /** Whether it waits for further attempts; undefined: only if there has been a connection before. */
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
  /** Number of failures in a row. */
  private failures = 0;
  /** Whether an attempt has failed since the first of the waiting calls began to wait. */
  private failedMeanwhile = false;
  private notBefore = 0;
  private lastFailure: ConnectError | undefined;
  private everMade = false;
  private ended: ConnectError | undefined;

  /**
   * @param make makes one attempt; rejects with a ConnectError
   * @param onChange called when `state` may have changed
   */
  constructor(make: () => Promise<C>, options: Required<ReconnectOptions>, onChange: () => void) {
    this.make = make;
    this.options = options;
    this.onChange = onChange;
  }

  /** "reconnecting": an attempt has failed, and calls wait for the next one. */
  get state(): "idle" | "connecting" | "reconnecting" {
    if (this.failedMeanwhile && this.waiters.size > 0) return "reconnecting";
    return this.attempting ? "connecting" : this.waiters.size > 0 ? "reconnecting" : "idle";
  }

  /** Number of calls that wait. */
  get waiting(): number {
    return this.waiters.size;
  }

  /** Why the last attempt failed; undefined once one has succeeded. */
  get failure(): ConnectError | undefined {
    return this.lastFailure;
  }

  /**
   * Waits for a connection.
   * @param timeoutMs time left for the call, in milliseconds; undefined: no deadline
   * @param waits whether to wait for further attempts if one fails; undefined: only if there has been a connection
   * before. No call waits if waiting cannot help
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
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it listens to this signal
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

  /** A connection has been useful: the next attempt needs no pause. */
  succeeded(): void {
    this.failures = this.notBefore = 0;
  }

  /** A connection or an attempt was in vain (DIAL-4). */
  failed(): void {
    this.failures++;
    this.notBefore = nowMs() + pauseAfter(this.failures, this.options);
  }

  /** Rejects the calls that wait now or later. */
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
    const text = lastFailure === undefined ? "no attempt to connect has finished" : lastFailure.rawMessage;
    return new ConnectError(
      `${text} (waited ${waitedMs} ms for a connection)`,
      Code.Unavailable,
      undefined,
      undefined,
      lastFailure,
    );
  }
}
