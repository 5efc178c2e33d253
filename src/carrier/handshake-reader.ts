/** Reads one handshake message from a socket, and no byte past it. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { HandshakeMessage } from "../wire/hello.js";
import { decodeHandshake, handshakeLength, PREFIX_BYTES } from "../wire/hello.js";
import { withRetryability } from "./retryability.js";

export class HandshakeReader {
  private buffer = new Uint8Array(PREFIX_BYTES);
  private filled = 0;
  private lengthKnown = false;

  /** Where the next bytes go; never more than belong to the message. */
  space(): Uint8Array {
    return this.buffer.subarray(this.filled);
  }

  /** `byteLength` bytes came into `space`. Returns the message once it is whole. @throws ConnectError */
  took(byteLength: number): HandshakeMessage | undefined {
    this.filled += byteLength;
    if (this.filled < this.buffer.length) return undefined;
    if (!this.lengthKnown) {
      this.lengthKnown = true;
      const whole = handshakeLength(this.buffer);
      if (whole === undefined) throw notIsthmus("the peer's first bytes are not an Isthmus handshake");
      const longer = new Uint8Array(whole);
      longer.set(this.buffer);
      this.buffer = longer;
      return undefined;
    }
    const message = decodeHandshake(this.buffer);
    if (message === undefined) throw notIsthmus("the peer's handshake is malformed");
    return message;
  }

  /** The error for a peer that sends no more. */
  ended(): ConnectError {
    return withRetryability(
      notIsthmus(
        this.filled === 0
          ? "the peer closed the connection without an answer"
          : "the peer closed the connection during the handshake",
      ),
      "draining",
    );
  }
}

export function notIsthmus(what: string): ConnectError {
  return withRetryability(
    new ConnectError(`${what}; is this the socket of an Isthmus peer?`, Code.Unavailable),
    "permanent",
  );
}
