/**
 * What the server does in a call, the same for every peer: it reads every byte of the request, and writes every byte of
 * its reply.
 *
 * A call's id says who made it: `| sequence number | client: 3 bits | lane: 7 bits |`, 32 bits in all. A lane makes one
 * call at a time, so the server keeps one reply for each lane and writes it anew when the lane calls again: by then the
 * reply before was received. So neither end of the benchmark allocates payloads, and what is allocated is the peer's
 * doing.
 */
import { PayloadPattern } from "./payload.js";
import type { Answer } from "./peers/peer.js";
import type { Payload } from "./proto/bench_pb.js";

const clientsMax = 8;
const lanesMax = 128;
const slots = clientsMax * lanesMax;

/** In a call's id: the server is to hand the request's bytes back as they are. */
export const echoBit = 1n << 32n;

/** The id of a lane's first call. A client that is alone may have more lanes: it takes those of the next clients. */
export function firstId(client: number, lane: number): number {
  const id = client * lanesMax + lane;
  if (id >= slots) throw new RangeError(`no lane ${lane} of client ${client}`);
  return id;
}

/** The id of the call after `id`; wraps after four million calls. */
export function nextId(id: number): number {
  return (id + slots) >>> 0;
}

export function createAnswer(): Answer {
  const replies: Payload[] = Array.from({ length: slots }, () => ({
    $typeName: "isthmus.bench.Payload",
    id: 0n,
    data: new Uint8Array(0),
  }));
  let pattern = new PayloadPattern(0);
  return (request) => {
    const { data } = request;
    if ((request.id & echoBit) !== 0n) return { $typeName: "isthmus.bench.Payload", id: request.id, data };
    if (pattern.byteLength !== data.length) pattern = new PayloadPattern(data.length);
    const id = Number(BigInt.asUintN(32, request.id));
    pattern.check(data, id, "request");
    const reply = replies[id % slots];
    if (reply.data.length !== data.length) reply.data = new Uint8Array(data.length);
    pattern.produce(reply.data, id, "reply");
    reply.id = request.id;
    return reply;
  };
}
