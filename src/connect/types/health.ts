/** What users see of a server's health. Types only. */

/** A service's status in gRPC's health checking protocol. */
export type HealthStatus = "SERVING" | "NOT_SERVING" | "UNKNOWN";

/** The statuses that a server with the option `health` reports, as `server.health`. */
export interface ServerHealth {
  /**
   * Sets a status, and tells those who watch it. It is kept until it is set again or the server closes; from then on
   * everything is "NOT_SERVING". With `workers` it is set in all threads, also in those that are started later.
   *
   * @param service the full name of a service, such as "shop.v1.Orders"; "" is the whole server
   * @throws ConnectError `InvalidArgument` if the status is none
   * @example
   * ```ts
   * database.on("lost", () => server.health?.set("shop.v1.Orders", "NOT_SERVING"));
   * database.on("connected", () => server.health?.set("shop.v1.Orders", "SERVING"));
   * ```
   */
  set(service: string, status: HealthStatus): void;
  /**
   * The status of a service; undefined if none has that name. With `workers`, only statuses that were set are known
   * here.
   */
  get(service: string): HealthStatus | undefined;
}
