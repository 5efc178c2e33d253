/** A socket carrier whose other end is a raw socket: what it writes, and what it makes of what it reads. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { createServer } from "node:net";
import { join } from "node:path";
import type { CarrierClosed, FrameReceiver, ReceivedFrame } from "../../src/carrier/carrier.js";
import { SocketCarrier } from "../../src/carrier/socket/socket.js";
import { StreamSocket } from "../../src/carrier/socket/stream-socket.js";
import { FIELD, FLAG, FRAME_HEADER_BYTES, KIND, packKindFlagsCode } from "../../src/wire/frame.js";
import { decodeHandshake, encodeHandshake } from "../../src/wire/hello.js";
import type { Parts } from "../../src/wire/parts.js";
import type { Owner } from "./temp.js";
import { tempFolder } from "./temp.js";

interface Seen {
  kind: number;
  streamId: number;
  metadata: string;
  fragment: string;
}

export class Recorder implements FrameReceiver {
  readonly seen: Seen[] = [];
  readonly filled: { streamId: number; bytes: Uint8Array }[] = [];
  rooms = 0;
  closed: CarrierClosed | undefined;
  closings = 0;
  onFrameOf: (frame: ReceivedFrame) => void = () => {};
  private readonly destinations = new Map<number, Uint8Array>();

  onFrame(frame: ReceivedFrame): void {
    const text = (bytes: Uint8Array, at: number, length: number) =>
      Buffer.from(bytes.subarray(at, at + length)).toString("latin1");
    this.seen.push({
      kind: frame.kind,
      streamId: frame.streamId,
      metadata: text(frame.scratch, frame.metadataOffset, frame.metadataLength),
      fragment: frame.following
        ? `${frame.fragmentLength} follow`
        : text(frame.fragmentSource, frame.fragmentOffset, frame.fragmentLength),
    });
    if (frame.following && frame.streamId !== 0xdead) {
      frame.destination = new Uint8Array(frame.fragmentLength);
      this.destinations.set(frame.streamId, frame.destination);
    }
    this.onFrameOf(frame);
  }

  onFilled(streamId: number): void {
    this.filled.push({ streamId, bytes: this.destinations.get(streamId)!.slice() });
  }

  onRoom(): boolean {
    this.rooms++;
    return false;
  }

  onClosed(reason: CarrierClosed): void {
    this.closings++;
    this.closed = reason;
  }
}

export async function pair(context: Owner): Promise<{ carrier: SocketCarrier; recorder: Recorder; raw: Socket }> {
  const path = join(tempFolder(context), "s");
  const server = createServer().listen(path);
  await once(server, "listening");
  const accepted = once(server, "connection");
  const stream = await StreamSocket.connect({ kind: "unix", path }, new AbortController().signal);
  const [raw] = (await accepted) as [Socket];
  raw.on("error", () => {});
  const answer = encodeHandshake({ kind: "accepted", version: 1, features: 0, maxStreams: 1 });
  raw.write(answer);
  assert.deepEqual(await stream.receive([], new AbortController().signal), decodeHandshake(answer));
  const carrier = new SocketCarrier(stream);
  const recorder = new Recorder();
  carrier.start(recorder);
  carrier.keepAlive(true);
  context.after(() => {
    carrier.close({ cause: "local", detail: "the test is over" });
    raw.destroy();
    server.close();
  });
  return { carrier, recorder, raw };
}

/** Writes a frame as the sendQueue does; a `fragment` follows it. False if there was no room. */
export function send(
  carrier: SocketCarrier,
  streamId: number,
  body: string | undefined,
  fragment?: Parts,
  fragmentBytes = 0,
): boolean {
  const length = body?.length ?? 0;
  if (carrier.freeBytes() < FRAME_HEADER_BYTES + length) return false;
  const at = carrier.index;
  if (fragment !== undefined && carrier.placeFragment(fragment, fragmentBytes) < 0) return false;
  Buffer.from(carrier.ringBytes.buffer).write(body ?? "", at + FRAME_HEADER_BYTES, "latin1");
  const words = carrier.ringWords;
  words.fill(0, at >> 2, (at >> 2) + 8);
  words[(at >> 2) + FIELD.byteLength] = FRAME_HEADER_BYTES + length;
  words[(at >> 2) + FIELD.kindFlagsCode] = packKindFlagsCode(
    KIND.message,
    fragment === undefined ? 0 : carrier.fragmentFlag | (fragment.leftBytes > 0 ? FLAG.more : 0),
    0,
  );
  words[(at >> 2) + FIELD.streamId] = streamId;
  words[(at >> 2) + FIELD.messageLength] = fragment === undefined ? length : fragment.byteLength;
  words[(at >> 2) + FIELD.fragmentLength] = fragment === undefined ? length : fragmentBytes;
  carrier.commit(FRAME_HEADER_BYTES + length);
  return true;
}

export function collect(raw: Socket): { bytes: () => Buffer } {
  const chunks: Buffer[] = [];
  raw.on("data", (chunk: Buffer) => chunks.push(chunk));
  return { bytes: () => Buffer.concat(chunks) };
}
