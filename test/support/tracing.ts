/**
 * A tracing interceptor as OpenTelemetry's would be: the active span lives in an AsyncLocalStorage, a client's span
 * travels in the header `traceparent`, and the server's span becomes its child.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import type { Interceptor } from "@connectrpc/connect";
import { ConnectError } from "@connectrpc/connect";

export interface Span {
  readonly name: string;
  readonly traceId: number;
  readonly spanId: number;
  readonly parentId: number | undefined;
  status: "open" | "ok" | number;
}

export interface Tracer {
  readonly spans: readonly Span[];
  /** The span that the running code belongs to. */
  active(): Span | undefined;
  /** Runs `act` inside a new span. */
  span<T>(name: string, act: () => Promise<T>, parent?: { traceId: number; spanId: number }): Promise<T>;
  readonly client: Interceptor;
  readonly server: Interceptor;
}

export function createTracer(): Tracer {
  const storage = new AsyncLocalStorage<Span>();
  const spans: Span[] = [];
  let lastId = 0;
  const tracer: Tracer = {
    spans,
    active: () => storage.getStore(),
    async span(name, act, parent = storage.getStore()) {
      const span: Span = {
        name,
        traceId: parent?.traceId ?? ++lastId,
        spanId: ++lastId,
        parentId: parent?.spanId,
        status: "open",
      };
      spans.push(span);
      try {
        const value = await storage.run(span, act);
        span.status = "ok";
        return value;
      } catch (error) {
        span.status = ConnectError.from(error).code;
        throw error;
      }
    },
    client: (next) => (request) =>
      tracer.span(`client ${request.method.name}`, () => {
        const { traceId, spanId } = storage.getStore()!;
        request.header.set("traceparent", `${traceId}-${spanId}`);
        return next(request);
      }),
    server: (next) => (request) => {
      const [traceId, spanId] = (request.header.get("traceparent") ?? "").split("-").map(Number);
      const parent = request.header.has("traceparent") ? { traceId, spanId } : undefined;
      return tracer.span(`server ${request.method.name}`, () => next(request), parent);
    },
  };
  return tracer;
}
