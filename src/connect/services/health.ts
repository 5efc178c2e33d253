/**
 * gRPC's health checking protocol (https://github.com/grpc/grpc/blob/master/doc/health-checking.md): the statuses of a
 * server's services, and the service that tells them.
 */
import type { ServiceImpl } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { HealthStatus, ServerHealth } from "../types/health.js";
import type { Health } from "./proto/grpc/health/v1/health_pb.js";
import { HealthCheckResponse_ServingStatus as Status } from "./proto/grpc/health/v1/health_pb.js";

const SETTABLE: readonly HealthStatus[] = ["SERVING", "NOT_SERVING", "UNKNOWN"];

export class HealthRegistry implements ServerHealth {
  private readonly statuses = new Map<string, HealthStatus>([["", "SERVING"]]);
  /** Called when a status has changed. */
  private readonly listeners = new Set<() => void>();
  private isOver = false;

  set(service: string, status: HealthStatus): void {
    if (typeof service !== "string")
      throw new ConnectError(
        'health.set: the service must be a full name, such as "shop.v1.Orders", or "" for the whole server',
        Code.InvalidArgument,
      );
    if (!SETTABLE.includes(status))
      throw new ConnectError(
        `health.set: the status must be one of ${SETTABLE.map((name) => `"${name}"`).join(", ")}`,
        Code.InvalidArgument,
      );
    // A server that drains does not come back.
    if (!this.isOver) this.change(service, status);
  }

  get(service: string): HealthStatus | undefined {
    return this.statuses.get(service);
  }

  /** A service is served. Its status may have been set before. */
  add(service: string): void {
    if (!this.statuses.has(service)) this.change(service, this.isOver ? "NOT_SERVING" : "SERVING");
  }

  /** The server drains: nothing is serving any more, and watchers are told so for the last time. */
  shutDown(): void {
    this.isOver = true;
    for (const service of this.statuses.keys()) this.statuses.set(service, "NOT_SERVING");
    this.tellListeners();
  }

  private change(service: string, status: HealthStatus): void {
    this.statuses.set(service, status);
    this.tellListeners();
  }

  private tellListeners(): void {
    for (const listener of [...this.listeners]) listener();
  }

  private changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.listeners.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      this.listeners.add(done);
      signal.addEventListener("abort", done);
      if (signal.aborted) done();
    });
  }

  /** The service `grpc.health.v1.Health`. */
  readonly implementation: ServiceImpl<typeof Health> = {
    check: ({ service }) => {
      const status = this.get(service);
      if (status === undefined) throw new ConnectError(`no service is named ${service}`, Code.NotFound);
      return { status: Status[status] };
    },
    list: () => ({
      statuses: Object.fromEntries(
        [...this.statuses].map(([service, status]) => [service, { status: Status[status] }]),
      ),
    }),
    watch: ({ service }, { signal }) => this.watch(service, signal),
  };

  // SUBTLE: a status can change only while this generator waits or has handed something out. It looks again after both.
  private async *watch(service: string, signal: AbortSignal): AsyncGenerator<{ status: Status }> {
    let told: Status | undefined;
    while (!signal.aborted) {
      const name = this.get(service);
      const status = name === undefined ? Status.SERVICE_UNKNOWN : Status[name];
      if (status !== told) yield { status: (told = status) };
      // A server that drains waits for open calls, and this one would never end by itself.
      else if (this.isOver) return;
      else await this.changed(signal);
    }
  }
}
