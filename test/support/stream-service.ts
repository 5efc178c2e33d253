/**
 * The handlers of StreamService, and a record of what they saw. What a handler does follows from its request's headers:
 * `x-script` is a {@link Script}, `x-call` the name under which it is recorded. So a client in another process decides,
 * and can ask.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { ConnectRouter, ContextKey, HandlerContext, Interceptor } from "@connectrpc/connect";
import { Code, ConnectError, createContextKey } from "@connectrpc/connect";
import { loan, mapFile, region, retain } from "../../src/index.js";
import type { Item } from "../proto/streams_pb.js";
import { ItemSchema, StreamService } from "../proto/streams_pb.js";
import { fillPattern, pattern, patternFault } from "./own-routes.js";

/** Where the bytes of a message lie. */
export const PAYLOADS = ["heap", "loan", "region", "file"] as const;
export type PayloadKind = (typeof PAYLOADS)[number];

export interface ScriptedFailure {
  readonly code?: Code;
  readonly message: string;
  /** A plain Error, not a ConnectError. */
  readonly plain?: boolean;
  readonly details?: readonly string[];
  readonly metadata?: Record<string, string>;
}

export interface Script {
  readonly headers?: Record<string, string>;
  readonly trailers?: Record<string, string>;
  /** Fails before anything is read. */
  readonly fail?: ScriptedFailure;
  /** Fails only after so many answers (`Sum`: requests). */
  readonly failAfter?: number;
  /** Reads so many requests, and answers. */
  readonly readMax?: number;
  readonly neverReads?: boolean;
  /** Between two reads. */
  readonly readPauseMs?: number;
  /** Reads nothing before `tellToReadHere`. */
  readonly readsWhenTold?: boolean;
  /** `Chat`: sends so many items of its own, whatever comes, and answers nothing. */
  readonly sends?: number;
  /** `Chat`: so many more after the last answer. */
  readonly sendsAfterwards?: number;
  /** Bytes of data in items of its own. */
  readonly dataBytes?: number;
  readonly payload?: PayloadKind;
  /** Whether data that comes is the pattern of its number. */
  readonly checks?: boolean;
  /** Keeps all messages that come, with `retain`, until the call is over, and checks them then. */
  readonly keeps?: boolean;
  /** Waits in the end until its signal aborts, and throws the reason. */
  readonly hangs?: boolean;
}

/** What the handlers saw that were called under one name: one handler, as a rule. */
export interface Seen {
  /** How often a handler was called under this name. */
  calls: number;
  /** Requests read. */
  items: number;
  /** Messages sent, that is: asked back for the next one. */
  sent: number;
  /** Whether the requests came to their end. */
  inputEnded: boolean;
  /** What reading requests threw. */
  inputFailure: { code: string; message: string } | undefined;
  aborted: { code: string; message: string } | undefined;
  /** How often `finally` ran. */
  finished: number;
  timeoutMs: number | undefined;
  requestHeaders: Record<string, string>;
  /** What the context value of the server's `contextValues` was. */
  value: string;
  /** Messages whose data was not what their number says. */
  damaged: number;
  /** Of messages before the last one: how many had lost their data when the next one came. */
  detached: number;
  /** By the interceptor: messages of requests and answers that passed it. */
  intercepted: { requests: number[]; answers: number[]; stream: boolean[] };
}

const records = new Map<string, Seen>();

export const streamValue: ContextKey<string> = createContextKey("nothing");

/** What handlers saw under the name `call` in this process. */
export function seenHere(call: string): Seen {
  let seen = records.get(call);
  if (seen === undefined) records.set(call, (seen = nothingSeen()));
  return seen;
}

function nothingSeen(): Seen {
  return {
    calls: 0,
    items: 0,
    sent: 0,
    inputEnded: false,
    inputFailure: undefined,
    aborted: undefined,
    finished: 0,
    timeoutMs: undefined,
    requestHeaders: {},
    value: "",
    damaged: 0,
    detached: 0,
    intercepted: { requests: [], answers: [], stream: [] },
  };
}

const tellings = new Map<string, { readonly promise: Promise<void>; readonly tell: () => void }>();

function told(call: string): { readonly promise: Promise<void>; readonly tell: () => void } {
  let telling = tellings.get(call);
  if (telling === undefined) {
    let tell!: () => void;
    const promise = new Promise<void>((resolve) => (tell = resolve));
    tellings.set(call, (telling = { promise, tell }));
  }
  return telling;
}

export function tellToReadHere(call: string): void {
  told(call).tell();
}

/** The totals of all calls whose name starts with `prefix`. */
export function totalsHere(prefix: string): { calls: number; finished: number; aborted: number } {
  const matching = [...records].filter(([name]) => name.startsWith(prefix)).map(([, seen]) => seen);
  const sum = (of: (seen: Seen) => number) => matching.reduce((total, seen) => total + of(seen), 0);
  return {
    calls: sum(({ calls }) => calls),
    finished: sum(({ finished }) => finished),
    aborted: sum(({ aborted }) => Number(aborted !== undefined)),
  };
}

/** Registers StreamService. */
export function streamRoutes(router: ConnectRouter): void {
  router.service(StreamService, {
    async echo(request, context) {
      const call = new Call(context);
      try {
        call.received(request);
        call.failIfDue(0);
        if (call.script.hangs === true) await untilAborted(context.signal);
        return request;
      } finally {
        call.end();
      }
    },
    async *count(request, context) {
      const call = new Call(context);
      try {
        const script = { ...call.script, dataBytes: request.dataBytes };
        for (let i = 0; i < Number(request.count); i++) {
          call.failIfDue(i);
          yield await ownItem(i, script, context);
          call.seen.sent++;
          if (request.pauseMs > 0) await sleep(request.pauseMs);
        }
        call.failIfDue(Number(request.count));
        if (request.failCode !== 0) throw new ConnectError(request.failMessage, request.failCode);
        if (script.hangs === true) await untilAborted(context.signal);
      } finally {
        call.end();
      }
    },
    async sum(requests, context) {
      const call = new Call(context);
      try {
        let sum = 0n;
        let dataBytes = 0n;
        call.failIfDue(0);
        if (call.script.neverReads !== true) {
          for await (const { number, data } of call.reads(requests)) {
            sum += number;
            dataBytes += BigInt(data.length);
            call.failIfDue(call.seen.items);
          }
        }
        if (call.script.hangs === true) await untilAborted(context.signal);
        return { items: BigInt(call.seen.items), sum, dataBytes };
      } finally {
        call.end();
      }
    },
    async *chat(requests, context) {
      const call = new Call(context);
      const { script, seen } = call;
      try {
        call.failIfDue(0);
        if (script.sends !== undefined) {
          const reading = script.neverReads === true ? undefined : drain(call.reads(requests));
          for (let i = 0; i < script.sends; i++) {
            yield await ownItem(i, script, context);
            seen.sent++;
            call.failIfDue(i + 1);
          }
          await reading;
        } else if (script.neverReads !== true) {
          for await (const request of call.reads(requests)) {
            yield await answerTo(request, script, context);
            seen.sent++;
            call.failIfDue(seen.sent);
          }
        }
        for (let i = 0; i < (script.sendsAfterwards ?? 0); i++) {
          yield { number: BigInt(1000 + i), text: "afterwards" };
          seen.sent++;
        }
        if (script.hangs === true) await untilAborted(context.signal);
      } finally {
        call.end();
      }
    },
  });
}

/** Records every message that passes; installed by servers that are asked to. */
export const recordMessages: Interceptor = (next) => async (request) => {
  const { intercepted } = seenHere(request.header.get("x-call") ?? "");
  intercepted.stream.push(request.stream);
  request.header.set("x-intercepted", "by the server");
  if (!request.stream) {
    intercepted.requests.push(numberOf(request.message));
    const response = await next(request);
    if (!response.stream) intercepted.answers.push(numberOf(response.message));
    return response;
  }
  const response = await next({ ...request, message: recorded(request.message, intercepted.requests) });
  response.header.set("x-intercepted", "by the server");
  return response.stream ? { ...response, message: recorded(response.message, intercepted.answers) } : response;
};

export function numberOf(message: object): number {
  return "number" in message ? Number(message.number) : -1;
}

export async function* recorded<T extends object>(messages: AsyncIterable<T>, into: number[]): AsyncGenerator<T> {
  for await (const message of messages) {
    into.push(numberOf(message));
    yield message;
  }
}

class Call {
  readonly script: Script;
  readonly seen: Seen;
  private readonly name: string;
  private readonly kept: Item[] = [];
  private last: Uint8Array | undefined;

  constructor(context: HandlerContext) {
    this.script = JSON.parse(context.requestHeader.get("x-script") ?? "{}") as Script;
    const name = (this.name = context.requestHeader.get("x-call") ?? "");
    this.seen = name === "" ? nothingSeen() : seenHere(name);
    this.seen.calls++;
    this.seen.timeoutMs = context.timeoutMs();
    this.seen.requestHeaders = Object.fromEntries(context.requestHeader);
    this.seen.value = context.values.get(streamValue);
    for (const [name, value] of Object.entries(this.script.headers ?? {})) context.responseHeader.append(name, value);
    for (const [name, value] of Object.entries(this.script.trailers ?? {})) context.responseTrailer.append(name, value);
    const note = () => {
      if (this.seen.finished < this.seen.calls) this.seen.aborted = described(context.signal.reason);
    };
    if (context.signal.aborted) note();
    context.signal.addEventListener("abort", note);
  }

  received(item: Item): void {
    const { seen, script } = this;
    seen.items++;
    if (script.checks === true && patternFault(item.data, Number(item.number)) >= 0) seen.damaged++;
    if (this.last !== undefined && this.last.length === 0) seen.detached++;
    this.last = item.data.length > 0 ? item.data : undefined;
    if (script.keeps === true) {
      retain(item);
      this.kept.push(item);
    }
  }

  async *reads(requests: AsyncIterable<Item>): AsyncGenerator<Item> {
    const { seen, script } = this;
    if (script.readMax === 0) return;
    if (script.readsWhenTold === true) await told(this.name).promise;
    const iterator = requests[Symbol.asyncIterator]();
    let ended = false;
    try {
      for (;;) {
        if (script.readPauseMs !== undefined) await sleep(script.readPauseMs);
        let result: IteratorResult<Item>;
        try {
          result = await iterator.next();
        } catch (error) {
          ended = true;
          seen.inputFailure = described(error);
          throw error;
        }
        if (result.done === true) {
          ended = true;
          seen.inputEnded = true;
          return;
        }
        this.received(result.value);
        yield result.value;
        if (seen.items === script.readMax) return;
      }
    } finally {
      if (!ended) await iterator.return?.();
    }
  }

  failIfDue(answers: number): void {
    const { fail, failAfter = 0 } = this.script;
    if (fail === undefined || answers !== failAfter) return;
    if (fail.plain === true) throw new Error(fail.message);
    const details = (fail.details ?? []).map((text) => ({ desc: ItemSchema, value: { text } }));
    throw new ConnectError(fail.message, fail.code ?? Code.Unknown, fail.metadata, details);
  }

  end(): void {
    for (const { number, data } of this.kept) if (patternFault(data, Number(number)) >= 0) this.seen.damaged++;
    this.seen.finished++;
  }
}

/** Item `number` with the pattern of its number as data, which lies where it is to lie. */
export async function ownItem(
  number: number,
  { dataBytes = 0, payload = "heap" }: Pick<Script, "dataBytes" | "payload">,
  owner: Parameters<typeof loan>[0],
) {
  return { number: BigInt(number), data: await payloadOf(payload, number, dataBytes, owner) };
}

async function payloadOf(
  kind: PayloadKind,
  seed: number,
  byteLength: number,
  owner: Parameters<typeof loan>[0],
): Promise<Uint8Array> {
  if (byteLength === 0) return new Uint8Array(0);
  if (kind === "heap") return pattern(seed, byteLength);
  if (kind === "file") return mapFile(patternFile(seed, byteLength));
  const bytes = kind === "loan" ? await loan(owner, byteLength) : await region(byteLength);
  fillPattern(bytes, seed);
  return bytes;
}

const files = new Map<string, string>();
let folder: string | undefined;

/** A file with the pattern of `seed`; gone when the process ends. */
function patternFile(seed: number, byteLength: number): string {
  if (folder === undefined) {
    const made = (folder = mkdtempSync(join(tmpdir(), "isthmus-")));
    process.on("exit", () => rmSync(made, { recursive: true, force: true }));
  }
  const name = `${seed}-${byteLength}`;
  let path = files.get(name);
  if (path === undefined) {
    path = join(folder, name);
    writeFileSync(path, pattern(seed, byteLength));
    files.set(name, path);
  }
  return path;
}

/** The request itself; with a payload of its own if the script says so. */
async function answerTo(
  request: Item,
  { payload }: Script,
  context: HandlerContext,
): Promise<{ number: bigint; text: string; data: Uint8Array; values: number[] }> {
  const data =
    payload === undefined
      ? request.data
      : await payloadOf(payload, Number(request.number), request.data.length, context);
  return { number: request.number, text: request.text, data, values: request.values };
}

async function drain(items: AsyncIterable<Item>): Promise<void> {
  const iterator = items[Symbol.asyncIterator]();
  while ((await iterator.next()).done !== true);
}

/**
 * Waits until `signal` aborts, and throws its reason. SUBTLE: over HTTP, a handler that returned instead would have its
 * call succeed whenever its deadline passes on the server first: both sides count the same time, each from its own turn
 * of the event loop.
 */
function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const end = () => reject(signal.reason as Error);
    if (signal.aborted) return end();
    signal.addEventListener("abort", end);
  });
}

function described(reason: unknown): { code: string; message: string } {
  if (reason instanceof ConnectError) return { code: Code[reason.code], message: reason.rawMessage };
  return { code: "none", message: String(reason) };
}
