/** Answers to requests for paths that nobody serves: clients of gRPC, gRPC-Web and Connect each learn, in their protocol, that it is `Unimplemented`. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { Code } from "@connectrpc/connect";

export type Request = IncomingMessage | Http2ServerRequest;
export type Response = ServerResponse | Http2ServerResponse;

/** The flag of a gRPC-Web frame that holds trailers instead of a message. */
const TRAILER_FLAG = 0x80;
const FRAME_HEADER_BYTES = 5;

export function answerUnserved(request: Request, response: Response): void {
  const path = (request.url ?? "").split("?", 1)[0];
  const message = `${path} is not served here; check the service and method name, and that the server registers it`;
  const contentType = request.headers["content-type"] ?? "";
  const [, grpc, web, text] = /^application\/(grpc)(-web)?(-text)?(?:[+;]|$)/i.exec(contentType) ?? [];
  if (grpc === undefined) return answerConnect(request, response, message);
  // The status is text of headers, which have no line breaks and ASCII only.
  const status = { "grpc-status": String(Code.Unimplemented), "grpc-message": encodeURIComponent(message).replace(/%(?:20|2F|3B|2C)/g, decodeURIComponent) };
  // gRPC tells errors of calls in a response of status 200: clients take any other one for a broken proxy.
  response.writeHead(200, { "content-type": contentType });
  if (web === undefined) {
    response.addTrailers(status);
    response.end();
    return;
  }
  const frame = trailerFrame(status);
  response.end(text === undefined ? frame : frame.toString("base64"));
}

/** For Connect 404 means `Unimplemented`, whatever the body is. Clients of unary methods read the message from it. */
function answerConnect(request: Request, response: Response, message: string): void {
  const { headers, url = "" } = request;
  const isConnect = headers["connect-protocol-version"] !== undefined || /^application\/(?:connect\+)?(?:proto|json)\b/i.test(headers["content-type"] ?? "") || /[?&]connect=v1(?:&|$)/.test(url);
  if (!isConnect) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(404, { "content-type": "application/json" });
  response.end(JSON.stringify({ code: "unimplemented", message }));
}

function trailerFrame(status: Readonly<Record<string, string>>): Buffer {
  const lines = Buffer.from(Object.entries(status).map(([name, value]) => `${name}: ${value}\r\n`).join(""));
  const frame = Buffer.alloc(FRAME_HEADER_BYTES + lines.length);
  frame[0] = TRAILER_FLAG;
  frame.writeUInt32BE(lines.length, 1);
  lines.copy(frame, FRAME_HEADER_BYTES);
  return frame;
}
