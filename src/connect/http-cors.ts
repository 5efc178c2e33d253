/** Cross-origin requests: which scripts of web pages may call a server on HTTP, and what browsers let them send and see. */
import { Code, ConnectError, cors as connectCors } from "@connectrpc/connect";
import type { Request, Response } from "./http-answers.js";

/** For browsers whose pages come from another origin than the server's. */
export interface CorsOptions {
  /** The pages that may call, as `https://app.example`; `"*"`, the default, stands for all. */
  readonly origins?: "*" | readonly string[];
  /** Whether calls may carry cookies and other credentials that the browser keeps. Needs a list of `origins`. */
  readonly credentials?: boolean;
  /** Request headers that scripts may send besides Connect's own, for example `authorization`. */
  readonly allowedHeaders?: readonly string[];
  /** Response headers that scripts may see besides Connect's own. Trailers of Connect's unary calls have the prefix `trailer-`. */
  readonly exposedHeaders?: readonly string[];
  /** How long browsers may remember what a preflight request told them, in seconds; 7200 by default. */
  readonly maxAgeSeconds?: number;
}

const MAX_AGE_SECONDS_DEFAULT = 7200;
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9a-z-]+$/i;
const OPTIONS = ["origins", "credentials", "allowedHeaders", "exposedHeaders", "maxAgeSeconds"];

export interface Cors {
  /** Sets the headers of the response. True: it was a preflight request, and has its answer. */
  apply(request: Request, response: Response): boolean;
}

/** @returns undefined if the option is off. @throws ConnectError `InvalidArgument` that says what to change */
export function corsOf(option: boolean | CorsOptions | undefined): Cors | undefined {
  if (option === undefined || option === false) return undefined;
  if (option !== true && (typeof option !== "object" || option === null || Array.isArray(option))) throw wrong("cors", "expected true, false or an object", option);
  const options = option === true ? {} : option;
  for (const name of Object.keys(options)) {
    if (!OPTIONS.includes(name)) throw new ConnectError(`option cors.${name}: there is no such option; there are ${OPTIONS.join(", ")}`, Code.InvalidArgument);
  }
  const { origins = "*", credentials = false, maxAgeSeconds = MAX_AGE_SECONDS_DEFAULT } = options;
  if (typeof credentials !== "boolean") throw wrong("cors.credentials", "expected true or false", credentials);
  if (!Number.isInteger(maxAgeSeconds) || maxAgeSeconds < 0) throw wrong("cors.maxAgeSeconds", "expected a whole number of seconds, 0 or more", maxAgeSeconds);
  const allowed = originsOf(origins);
  if (credentials && allowed === "*") {
    throw new ConnectError("option cors.credentials: with any origin, every web page could call in the name of whoever looks at it; list the `origins` that may", Code.InvalidArgument);
  }
  return new CorsHeaders(allowed, credentials, [...connectCors.allowedHeaders, ...namesOf("allowedHeaders", options.allowedHeaders)], [...connectCors.exposedHeaders, ...namesOf("exposedHeaders", options.exposedHeaders)], maxAgeSeconds);
}

class CorsHeaders implements Cors {
  private readonly origins: "*" | ReadonlySet<string>;
  private readonly credentials: boolean;
  private readonly preflight: Record<string, string>;
  private readonly exposed: string;

  constructor(origins: "*" | ReadonlySet<string>, credentials: boolean, allowedHeaders: readonly string[], exposedHeaders: readonly string[], maxAgeSeconds: number) {
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
    const isPreflight = request.method === "OPTIONS" && origin !== undefined && request.headers["access-control-request-method"] !== undefined;
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
  const writeHead = response.writeHead.bind(response) as (status: number, headers?: Record<string, unknown>) => Response;
  response.writeHead = ((status: number, headers: Record<string, unknown> = {}) => {
    const { vary } = headers;
    return writeHead(status, typeof vary === "string" ? { ...headers, vary: `Origin, ${vary}` } : headers);
  }) as never;
}

function originsOf(origins: NonNullable<CorsOptions["origins"]>): "*" | ReadonlySet<string> {
  if (origins === "*") return "*";
  if (!Array.isArray(origins)) throw wrong("cors.origins", 'expected "*" or a list of origins', origins);
  for (const origin of origins as readonly unknown[]) {
    const meant = typeof origin === "string" && URL.canParse(origin) ? new URL(origin).origin : undefined;
    if (meant === origin || origin === "null") continue;
    const hint = meant === undefined || meant === "null" ? "" : `; did you mean ${JSON.stringify(meant)}?`;
    throw wrong("cors.origins", `expected origins such as "https://app.example"${hint}`, origin);
  }
  return new Set(origins as readonly string[]);
}

function namesOf(option: "allowedHeaders" | "exposedHeaders", names: readonly string[] = []): readonly string[] {
  const given: unknown = names;
  if (!Array.isArray(given)) throw wrong(`cors.${option}`, "expected a list of header names", names);
  for (const name of given as unknown[]) {
    if (typeof name !== "string" || !HEADER_NAME.test(name)) throw wrong(`cors.${option}`, "expected names of headers", name);
  }
  return names;
}

function wrong(option: string, expected: string, value: unknown): ConnectError {
  return new ConnectError(`option ${option}: ${expected}, not ${JSON.stringify(value) ?? String(value)}`, Code.InvalidArgument);
}
