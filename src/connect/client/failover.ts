/**
 * A transport to several addresses of one service. It has a transport for each address, of which one is in use.
 *
 * FAILOVER-1  A call is given to one address, once, and only when that address has a connection. So only calls that
 *             wait for a connection move to another address, never a call that may have been sent.
 * FAILOVER-2  Earlier addresses are preferred. While a later one is in use, calls start attempts at the earlier ones in
 *             the background, at most one a second, without waiting for them. Once an attempt succeeds, new calls go
 *             there. Open calls stay where they are.
 */
import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import type { ContextValues, StreamResponse, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { retryabilityOf, withRetryability } from "../../carrier/retryability.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import { Loan } from "../../memory/payload/loan.js";
import { nowMs } from "../../os/timers.js";
import { ownSignal } from "../../rpc/abort.js";
import { connectErrorOf } from "../../rpc/errors.js";
import { boundedTimeout } from "../../rpc/deadline.js";
import { closeIterator } from "../../rpc/stream/stream-writer.js";
import { Dialer, reconnectOf, waitForReady } from "./dialer.js";
import { checkOptional } from "../options/check.js";
import { connectTable, transportCloseTable } from "../options/table.js";
import { callTimeout } from "../options/options.js";
import type { LoanOwner } from "../payloads/payloads.js";
import { LOAN } from "../payloads/payloads.js";
import type {
  AddressedTransport,
  ConnectionState,
  ConnectOptions,
  HeadersInit,
  IsthmusTransport,
  IsthmusTransportOptions,
  TransportStats,
} from "../types/client.js";

const PROBE_INTERVAL_MS = 1000;

export class FailoverTransport implements IsthmusTransport, LoanOwner {
  private readonly members: readonly AddressedTransport[];
  private readonly options: IsthmusTransportOptions;
  private readonly dialer: Dialer<AddressedTransport>;
  private current: AddressedTransport | undefined;
  private probing = false;
  private probedAt = 0;
  private closed = false;

  /** @param members in order of preference, at least one */
  constructor(members: readonly AddressedTransport[], options: IsthmusTransportOptions) {
    this.members = members;
    this.options = options;
    this.dialer = new Dialer(
      () => this.tryAll(),
      reconnectOf(options.reconnect),
      () => undefined,
    );
  }

  get state(): ConnectionState {
    if (this.closed) return "closed";
    if (this.current?.state === "ready") return "ready";
    return this.dialer.state;
  }

  get carrier(): TransportStats["carrier"] {
    return this.current?.carrier;
  }

  get carrierReason(): string | undefined {
    return this.current?.carrierReason;
  }

  toJSON() {
    return { address: this.members.flatMap((member) => member.toJSON().address), ...this.stats() };
  }

  stats(): TransportStats {
    let [pendingCalls, connections] = [this.dialer.waiting, 0];
    for (const member of this.members) {
      const stats = member.stats();
      pendingCalls += stats.pendingCalls;
      connections += stats.connections;
    }
    const { isolation, isolationReason, connection } = this.current?.stats() ?? {};
    return {
      state: this.state,
      carrier: this.carrier,
      carrierReason: this.carrierReason,
      isolation,
      isolationReason,
      pendingCalls,
      connections,
      connection,
    };
  }

  // eslint-disable-next-line @typescript-eslint/max-params -- the signature of Connect's Transport
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const ready = this.readyMember();
    if (ready !== undefined) return ready.unary(method, signal, timeoutMs, header, input, contextValues);
    return this.whenChosen(signal, timeoutMs, contextValues, (member, left) =>
      member.unary(method, signal, left, header, input, contextValues),
    );
  }

  // eslint-disable-next-line @typescript-eslint/max-params -- the signature of Connect's Transport
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    const ready = this.readyMember();
    if (ready !== undefined) return ready.stream(method, signal, timeoutMs, header, input, contextValues);
    let iterator: AsyncIterator<MessageInitShape<I>>;
    try {
      iterator = input[Symbol.asyncIterator]();
    } catch (error) {
      return Promise.reject(connectErrorOf(error, Code.Internal));
    }
    const messages = { [Symbol.asyncIterator]: () => iterator };
    return this.whenChosen(
      signal,
      timeoutMs,
      contextValues,
      (member, left) => member.stream(method, signal, left, header, messages, contextValues),
      (error) => void closeIterator(iterator, error),
    );
  }

  async [LOAN](byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array> {
    const member = this.readyMember() ?? (await this.dialer.wait(undefined, makeSignal(), this.options.waitForReady));
    return LOAN in member ? (member as unknown as LoanOwner)[LOAN](byteLength, makeSignal) : Loan.onHeap(byteLength);
  }

  async connect(options?: ConnectOptions): Promise<void> {
    const { timeoutMs, signal, waitForReady: waits } = checkOptional(connectTable, options);
    if (this.readyMember() === undefined)
      await this.dialer.wait(boundedTimeout(timeoutMs), signal, waits ?? this.options.waitForReady);
  }

  async close(options?: { readonly timeoutMs?: number }): Promise<void> {
    checkOptional(transportCloseTable, options);
    this.closed = true;
    this.dialer.close(new ConnectError("the transport is closed", Code.Unavailable));
    await Promise.all(this.members.map((member) => member.close(options)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private readyMember(): AddressedTransport | undefined {
    const { current } = this;
    if (current?.state !== "ready" || this.closed) return undefined;
    if (current !== this.members[0]) this.probe(current);
    return current;
  }

  private async whenChosen<T>(
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    contextValues: ContextValues | undefined,
    call: (member: AddressedTransport, leftMs: number | undefined) => Promise<T>,
    onNone: (error: Error) => void = () => {},
  ): Promise<T> {
    const start = nowMs();
    let timeout: number | undefined;
    let member: AddressedTransport;
    try {
      timeout = boundedTimeout(callTimeout(timeoutMs, this.options.defaultTimeoutMs));
      member = await this.dialer.wait(
        timeout,
        signal && ownSignal(signal),
        contextValues?.get(waitForReady) ?? this.options.waitForReady,
      );
    } catch (error) {
      onNone(error as Error);
      throw error;
    }
    return call(member, timeout === undefined ? timeoutMs : Math.max(timeout - (nowMs() - start), 1));
  }

  private async tryAll(): Promise<AddressedTransport> {
    this.probedAt = nowMs();
    const failures: ConnectError[] = [];
    for (const member of this.members) {
      try {
        await member.connectNow();
        this.dialer.succeeded();
        return (this.current = member);
      } catch (error) {
        failures.push(connectErrorOf(error));
        if (this.closed) break;
      }
    }
    const code = failures.every((failure) => failure.code === failures[0].code) ? failures[0].code : Code.Unavailable;
    const retryabilities = failures.map(retryabilityOf);
    const error = new ConnectError(
      failures.map(({ rawMessage }) => rawMessage).join("; "),
      code,
      undefined,
      undefined,
      failures[0],
    );
    throw withRetryability(
      error,
      retryabilities.find((retryability) => retryability === "draining") ??
        retryabilities.find((retryability) => retryability === "unavailable") ??
        "permanent",
    );
  }

  /** Tries the addresses before the one in use (FAILOVER-2). */
  private probe(inUse: AddressedTransport): void {
    if (this.probing || nowMs() - this.probedAt < PROBE_INTERVAL_MS) return;
    this.probing = true;
    void inRootContext(async () => {
      for (const member of this.members) {
        if (member === inUse || this.closed) break;
        try {
          await member.connectNow();
          this.current = member;
          break;
        } catch {
          // Not available yet. The error is reported when no address works.
        }
      }
      this.probing = false;
      this.probedAt = nowMs();
    });
  }
}
