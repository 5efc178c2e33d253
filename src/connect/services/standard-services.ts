/** The services that a server offers besides the user's: health and reflection. */
import type { DescService } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { IsthmusRouter } from "../types/routes.js";
import { HealthRegistry } from "./health.js";
import { Health } from "./proto/grpc/health/v1/health_pb.js";
import { ServerReflection } from "./proto/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection as ServerReflectionAlpha } from "./proto/grpc/reflection/v1alpha/reflection_pb.js";
import { Reflection } from "./reflection.js";

/** Which standard services a server offers. */
export interface StandardServiceOptions {
  readonly health?: boolean | undefined;
  readonly reflection?: boolean | undefined;
}

export class StandardServices {
  readonly health: HealthRegistry | undefined;
  private readonly reflection: Reflection | undefined;

  /**
   * @param served the user's services
   * @throws ConnectError `InvalidArgument` if the user serves one of the same name
   */
  constructor(options: StandardServiceOptions, served: ReadonlySet<DescService>) {
    const own: DescService[] = [];
    if (options.health === true) own.push(Health);
    if (options.reflection === true) own.push(ServerReflection, ServerReflectionAlpha);
    for (const { typeName } of own) {
      if (![...served].some((service) => service.typeName === typeName)) continue;
      const option = typeName === Health.typeName ? "health" : "reflection";
      throw new ConnectError(
        `option ${option}: routes registers ${typeName} itself; remove the option or that service`,
        Code.InvalidArgument,
      );
    }
    if (options.health === true) {
      this.health = new HealthRegistry();
      for (const { typeName } of [...served, ...own]) this.health.add(typeName);
    }
    if (options.reflection === true) this.reflection = new Reflection([...served, ...own]);
  }

  register(router: IsthmusRouter): void {
    const { health, reflection } = this;
    // Probes have no credentials, and health tells no more than names and statuses.
    if (health !== undefined)
      router.service(Health, health.implementation, { interceptors: [], requestGate: () => undefined });
    if (reflection === undefined) return;
    router.service(ServerReflection, { serverReflectionInfo: (requests) => reflection.answer(requests) });
    router.service(ServerReflectionAlpha, {
      serverReflectionInfo: (requests) => reflection.answer(requests as never) as never,
    });
  }
}
