/**
 * Cross-origin requests: which scripts of web pages may call a server on HTTP, and what browsers let them send and see.
 */
import { Code, ConnectError, cors as connectCors } from "@connectrpc/connect";
import type { Request, Response } from "./answers.js";
import { DEFAULTS } from "../options/defaults.js";
import type { CorsOptions } from "../types/http.js";

export interface Cors {
  /** Sets the headers of the response. True: it was a preflight request, and has its answer. */
  apply(request: Request, response: Response): boolean;
}

/**
 * @param option checked as the table of options has it. @returns undefined if it is off. @throws ConnectError
 * `InvalidArgument` if its parts do not go together
 */
export function corsOf(option: boolean | CorsOptions | undefined): Cors | undefined {
  if (option === undefined || option === false) return undefined;
  const {
    origins = "*",
    credentials = false,
    allowedHeaders = [],
    exposedHeaders = [],
    maxAgeSeconds = DEFAULTS.corsMaxAgeSeconds,
  } = option === true ? {} : option;
  if (credentials && origins === "*") {
    throw new ConnectError(
      "option cors.credentials: with any origin, every web page could call in the name of whoever looks at it; list the `origins` that may",
      Code.InvalidArgument,
    );
  }
  const allowed = origins === "*" ? origins : new Set(origins);
  return new CorsHeaders(
    allowed,
    credentials,
    [...connectCors.allowedHeaders, ...allowedHeaders],
    [...connectCors.exposedHeaders, ...exposedHeaders],
    maxAgeSeconds,
  );
}

class CorsHeaders implements Cors {
  private readonly origins: "*" | ReadonlySet<string>;
  private readonly credentials: boolean;
  private readonly preflight: Record<string, string>;
  private readonly exposed: string;

  constructor(
    origins: "*" | ReadonlySet<string>,
    credentials: boolean,
    allowedHeaders: readonly string[],
    exposedHeaders: readonly string[],
    maxAgeSeconds: number,
  ) {
    this.origins = origins;
    this.credentials = credentials;
    this.preflight = {
      "access-control-allow-methods": connectCors.allowedMethods.join(", "),
      "access-control-allow-headers": allowedHeaders.join(", "),
      "access-control-max-age": String(maxAgeSeconds),
    };
    this.exposed = exposedHeaders.join(", ");
  }

  apply(request: Request, response: Response): boolean {
    const { origin } = request.headers;
    const isPreflight =
      request.method === "OPTIONS" &&
      origin !== undefined &&
      request.headers["access-control-request-method"] !== undefined;
    keepVary(response);
    // Also without an origin: what a cache keeps of this response must not be given to a page.
    response.setHeader("vary", "Origin");
    const allowed = origin !== undefined && (this.origins === "*" || this.origins.has(origin));
    if (allowed) {
      response.setHeader("access-control-allow-origin", this.origins === "*" ? "*" : origin);
      if (this.credentials) response.setHeader("access-control-allow-credentials", "true");
    }
    if (!isPreflight) {
      if (allowed) response.setHeader("access-control-expose-headers", this.exposed);
      return false;
    }
    request.resume();
    response.writeHead(allowed ? 204 : 403, allowed ? this.preflight : {}).end();
    return true;
  }
}

/** A handler's own `vary` is added to, not put in the place of ours. */
function keepVary(response: Response): void {
  const writeHead = response.writeHead.bind(response) as (
    status: number,
    headers?: Record<string, unknown>,
  ) => Response;
  response.writeHead = ((status: number, headers: Record<string, unknown> = {}) => {
    const { vary } = headers;
    return writeHead(status, typeof vary === "string" ? { ...headers, vary: `Origin, ${vary}` } : headers);
  }) as never;
}
