/** Answers for failures that Connect does not answer itself, in the request's protocol: gRPC, gRPC-Web or Connect. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { constants } from "node:http2";
import { Code } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";

export type Request = IncomingMessage | Http2ServerRequest;
export type Response = ServerResponse | Http2ServerResponse;

/** Flags of the last frame of a stream. */
const GRPC_WEB_TRAILERS = 0x80;
const CONNECT_END = 0x02;
const FRAME_HEADER_BYTES = 5;

/** Answers a request for a path that is not served. */
export function answerUnserved(request: Request, response: Response): void {
  const path = (request.url ?? "").split("?", 1)[0];
  answer(
    request,
    response,
    Code.Unimplemented,
    `${path} is not served here; check the service and method name, and that the server registers it`,
    404,
  );
}

/** Answers a call that Connect gave up, perhaps in the middle of the response. Never throws. */
export function answerFailed(request: Request, response: Response): void {
  if (response.writableEnded) return;
  try {
    answer(request, response, Code.Internal, "internal error: the response cannot be sent", 500);
  } catch {
    breakOff(response);
  }
}

function breakOff(response: Response): void {
  if ("stream" in response) response.stream.close(constants.NGHTTP2_INTERNAL_ERROR);
  else response.destroy();
}

/**
 * @param httpStatus for Connect, and for requests that are not calls. gRPC reports errors in a response with status
 * 200: its clients attribute any other status to a broken proxy
 */
function answer(request: Request, response: Response, code: Code, message: string, httpStatus: number): void {
  const contentType = request.headers["content-type"] ?? "";
  const [, grpc, web, text] = /^application\/(grpc)(-web)?(-text)?(?:[+;]|$)/i.exec(contentType) ?? [];
  if (grpc === undefined) return answerConnect(request, response, code, message, httpStatus);
  const status = { "grpc-status": String(code), "grpc-message": percentEncoded(message) };
  if (web === undefined) {
    if (!response.headersSent) response.writeHead(200, { "content-type": contentType });
    response.addTrailers(status);
    response.end();
    return;
  }
  const frame = frameOf(
    GRPC_WEB_TRAILERS,
    Object.entries(status)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join(""),
  );
  endWith(response, 200, contentType, text === undefined ? frame : Buffer.from(frame.toString("base64")));
}

function answerConnect(
  { headers, url = "" }: Request,
  response: Response,
  code: Code,
  message: string,
  httpStatus: number,
): void {
  const contentType = headers["content-type"] ?? "";
  const error = { code: codeToString(code), message };
  if (response.headersSent) {
    if (/^application\/connect\+/i.test(contentType))
      endWith(response, httpStatus, contentType, frameOf(CONNECT_END, JSON.stringify({ error })));
    else breakOff(response);
    return;
  }
  const isConnect =
    headers["connect-protocol-version"] !== undefined ||
    /^application\/(?:connect\+)?(?:proto|json)\b/i.test(contentType) ||
    /[?&]connect=v1(?:&|$)/.test(url);
  if (isConnect) endWith(response, httpStatus, "application/json", Buffer.from(JSON.stringify(error)));
  else response.writeHead(httpStatus).end();
}

/**
 * SUBTLE: sets the length. Otherwise an HTTP/1.1 response whose first headers were rejected would be sent with the
 * length in those headers.
 */
function endWith(response: Response, httpStatus: number, contentType: string, body: Buffer): void {
  if (!response.headersSent)
    response.writeHead(httpStatus, { "content-type": contentType, "content-length": body.length });
  response.end(body);
}

function frameOf(flags: number, text: string): Buffer {
  const body = Buffer.from(text);
  const frame = Buffer.alloc(FRAME_HEADER_BYTES + body.length);
  frame[0] = flags;
  frame.writeUInt32BE(body.length, 1);
  body.copy(frame, FRAME_HEADER_BYTES);
  return frame;
}

/** Encodes a message as gRPC does: printable ASCII except `%` stays as it is. */
function percentEncoded(message: string): string {
  return Buffer.from(message)
    .toString("latin1")
    .replace(/[^\x20-\x24\x26-\x7e]/g, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);
}
