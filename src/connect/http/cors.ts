/**
 * Cross-origin requests: which web pages may call a server over HTTP, and what browsers let their scripts send and
 * read.
 */
import { Code, ConnectError, cors as connectCors } from "@connectrpc/connect";
import type { Request, Response } from "./answers.js";
import { DEFAULTS } from "../options/defaults.js";
import type { CorsOptions } from "../types/http.js";

export interface Cors {
  /** Sets the headers of the response. @returns whether the request was a preflight request, which has been answered */
  apply(request: Request, response: Response): boolean;
}

/**
 * @param option has been checked against the table of options
 * @returns undefined if CORS is off
 * @throws ConnectError `InvalidArgument` if parts of the option contradict each other
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
      "option cors.credentials: with all origins, any web page could make calls with its visitor's credentials; list the allowed `origins`",
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
    // Set even without an origin: a cache must not give this response to a page.
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

/** Adds a handler's own `vary` to ours instead of replacing it. */
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
