/**
 * The process of the mutation proof that owns the segments and never leaves them alone: puts a sound frame into a slot,
 * damages it a few times where that matters (text, lengths, tags, the table of spans), and goes on to another slot.
 * What it does follows from the seed; what the other process sees of it does not, that is the point.
 */
import { ARENA_UNIT_BYTES, RING_DATA_OFFSET, WORD } from "../../src/memory/shm/layout.js";
import { createOwnMemory, joinMemory } from "../../src/memory/shm/segment.js";
import { requireAddon } from "../../src/os/addon.js";
import { NOT_UTF8 } from "../fuzz/mutate.js";
import { Random } from "../fuzz/random.js";
import { obey } from "../stress/peer.js";
import type { Draft } from "./mutation-frames.js";
import {
  draftOf,
  FRAME_HEADER_BYTES,
  FRAME_WORD,
  GEOMETRY,
  SCHEMAS,
  SLOT_BYTES,
  SLOTS,
  SPAN_WORDS,
} from "./mutation-frames.js";

export interface Mutated {
  readonly drafts: number;
  readonly damages: number;
}

const DRAFTS_PER_SLOT = 300;
/** Between two looks at whether to go on. */
const SLICE_MS = 20;
const TOGGLES = 40;
const ROUNDS_MAX = 30;

const addon = requireAddon();
const own = createOwnMemory(addon, GEOMETRY, false);
addon.commitPages(own.arenaDescriptor, ARENA_UNIT_BYTES, GEOMETRY.arenaBytes - ARENA_UNIT_BYTES);
const ringBytes = new Uint8Array(own.ring, RING_DATA_OFFSET, GEOMETRY.ringBytes);
const ringWords = new Uint32Array(own.ring, RING_DATA_OFFSET, GEOMETRY.ringBytes / 4);
const arenaBytes = own.arena.upTo(GEOMETRY.arenaBytes);

let socket: number;
let peerWords: Int32Array;
let random: Random;
let drafts: readonly (readonly Draft[])[];
let running = false;
let written = 0;
let damages = 0;

obey({
  /** Gives the segments to whoever listens there. */
  send(path: string) {
    socket = addon.connectSocket(path);
    addon.sendMessage(socket, new Uint8Array(1), [own.ringDescriptor, own.arenaDescriptor]);
  },
  /** Maps those of the other process, which say where it is reading. */
  join() {
    const { descriptors } = addon.receiveMessage(socket, new Uint8Array(1));
    addon.closeDescriptor(socket);
    const { peerRing } = joinMemory(addon, own, descriptors);
    peerWords = new Int32Array(peerRing, 0, RING_DATA_OFFSET / 4);
  },
  start(seed: number) {
    random = new Random(seed, 1);
    drafts = Array.from({ length: SLOTS }, (_, slot) => makeDrafts(slot));
    for (let slot = 0; slot < SLOTS; slot++) put(slot, random.pick(drafts[slot]));
    running = true;
    goOn();
  },
  stop(): Mutated {
    running = false;
    return { drafts: written, damages };
  },
});

function makeDrafts(slot: number): readonly Draft[] {
  const made: Draft[] = [];
  while (made.length < DRAFTS_PER_SLOT) {
    const draft = draftOf(random, slot);
    if (draft !== undefined) made.push(draft);
  }
  return made;
}

function goOn(): void {
  const end = performance.now() + SLICE_MS;
  while (performance.now() < end) {
    // Mostly where the other process is; what it publishes is as little trusted as anything of a peer's.
    const slot = random.once(8) ? random.below(SLOTS) : (peerWords[WORD.head] >>> 0) % SLOTS;
    const draft = random.pick(drafts[slot]);
    // The same frame for a while: its header and its table have to be of one fragment for the reader to get further.
    for (let rounds = random.below(ROUNDS_MAX); rounds >= 0; rounds--) {
      put(slot, draft);
      for (let left = random.below(4); left > 0; left--) {
        random.pick(DAMAGES)(slot, draft);
        damages++;
      }
    }
  }
  if (running) setImmediate(goOn);
}

function put(slot: number, { schema, rope, offsets }: Draft): void {
  const word = (slot * SLOT_BYTES) / 4;
  ringWords[word + FRAME_WORD.schema] = schema;
  ringWords[word + FRAME_WORD.inlineBytes] = rope.inline.length;
  ringWords[word + FRAME_WORD.spanCount] = rope.spans.length;
  ringWords[word + FRAME_WORD.byteLength] = rope.byteLength;
  rope.spans.forEach(({ position, bytes }, i) => {
    const entry = word + FRAME_WORD.table + SPAN_WORDS * i;
    ringWords[entry] = position;
    ringWords[entry + 1] = offsets[i];
    ringWords[entry + 2] = bytes.length;
    arenaBytes.set(bytes, offsets[i]);
  });
  ringBytes.set(rope.inline, slot * SLOT_BYTES + FRAME_HEADER_BYTES);
  written++;
}

/** A byte of the message, wherever it lies. */
interface Place {
  bytes: Uint8Array;
  at: number;
  /** Bytes in one fragment from there on. */
  room: number;
}
const place: Place = { bytes: ringBytes, at: 0, room: 0 };

/** Finds a position of the joined message. */
function find(slot: number, { rope: { inline, spans }, offsets }: Draft, position: number): Place {
  let before = 0;
  place.room = 0;
  for (let i = 0; i < spans.length && spans[i].position <= position; i++) {
    const { length } = spans[i].bytes;
    place.room = length - (position - spans[i].position);
    if (place.room > 0) {
      place.bytes = arenaBytes;
      place.at = offsets[i] + position - spans[i].position;
      return place;
    }
    before += length;
  }
  const index = Math.max(0, Math.min(position - before, inline.length - 1));
  place.bytes = ringBytes;
  place.at = slot * SLOT_BYTES + FRAME_HEADER_BYTES + index;
  place.room = inline.length - index;
  return place;
}

function anywhere(slot: number, draft: Draft): Place {
  return find(slot, draft, random.below(Math.min(draft.rope.byteLength, 1 << 16)));
}

/** Within a value: text, bytes, numbers or a message. */
function inPayload(slot: number, draft: Draft): Place {
  if (draft.payloads.length === 0) return anywhere(slot, draft);
  const { start, length } = random.pick(draft.payloads);
  return find(slot, draft, start + random.below(Math.max(1, length)));
}

/** The bytes before a value: its length and its tag. */
function beforePayload(slot: number, draft: Draft): Place {
  if (draft.payloads.length === 0) return anywhere(slot, draft);
  return find(slot, draft, Math.max(0, random.pick(draft.payloads).start - 1 - (random.once(2) ? 0 : random.below(3))));
}

const UTF8: readonly (readonly number[])[] = ["a", "aaaa", "é", "ж", "漢", "\ufffd", "\u2028", "😀", "éé", "\0"].map(
  (text) => [...Buffer.from(text)],
);
const BYTES = [0, 1, 0x7f, 0x80, 0xbf, 0xc3, 0xe6, 0xf0, 0xff];
/** A signalling NaN among them, and the one that V8 takes for a hole where it does not look out. */
const DOUBLES: readonly (readonly number[])[] = [
  [0xff, 0xff, 0xf7, 0xff, 0xff, 0xff, 0xf7, 0xff],
  [1, 0, 0, 0, 0, 0, 0xf0, 0x7f],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0, 0, 0, 0, 0, 0, 0, 0x80],
];

function write({ bytes, at, room }: Place, by: readonly number[]): void {
  const length = Math.min(by.length, room);
  for (let i = 0; i < length; i++) bytes[at + i] = by[i];
}

/** Back and forth between two sequences, so that a reader meets both, or half of each, in one reading. */
function toggle(where: Place, one: readonly number[], other: readonly number[]): void {
  for (let i = 0; i < TOGGLES; i++) {
    write(where, one);
    write(where, other);
  }
}

function another(byte: number): number {
  switch (random.below(4)) {
    case 0:
      return byte + 1;
    case 1:
      return byte - 1;
    case 2:
      return byte ^ (1 << random.below(8));
    default:
      return random.once(2) ? random.pick(BYTES) : random.below(256);
  }
}

function changeWord(word: number, value: number): void {
  const old = ringWords[word];
  for (let i = random.once(2) ? 1 : TOGGLES; i > 0; i--) {
    ringWords[word] = old;
    ringWords[word] = value;
  }
  if (random.once(2)) ringWords[word] = old;
}

/** All of a value at once: what was one byte a character becomes two, three or four, or nothing that is valid. */
function rewritePayload(slot: number, draft: Draft): void {
  if (draft.payloads.length === 0) return;
  const { start, length } = random.pick(draft.payloads);
  const { bytes, at, room } = find(slot, draft, start);
  const character = random.once(4) ? random.pick(NOT_UTF8) : random.pick(UTF8);
  const end = at + Math.min(length, room);
  for (let round = 0; round < 4; round++) {
    bytes.fill(0x61, at, end);
    for (let i = at; i < end; i++) bytes[i] = character[(i - at) % character.length];
  }
}

type Damage = (slot: number, draft: Draft) => void;

const DAMAGES: readonly Damage[] = [
  (slot, draft) => write(anywhere(slot, draft), [random.below(256)]),
  // Text, valid and not.
  (slot, draft) => write(inPayload(slot, draft), random.pick(NOT_UTF8)),
  (slot, draft) => write(inPayload(slot, draft), random.pick(UTF8)),
  (slot, draft) => toggle(inPayload(slot, draft), random.pick(NOT_UTF8), random.pick(UTF8)),
  (slot, draft) => toggle(inPayload(slot, draft), random.pick(UTF8), random.pick(UTF8)),
  rewritePayload,
  rewritePayload,
  // Lengths and tags.
  (slot, draft) => {
    const where = beforePayload(slot, draft);
    write(where, [another(where.bytes[where.at])]);
  },
  (slot, draft) => {
    const where = beforePayload(slot, draft);
    const byte = where.bytes[where.at];
    toggle(where, [another(byte)], [byte]);
  },
  // Numbers.
  (slot, draft) => write(inPayload(slot, draft), random.pick(DOUBLES)),
  (slot, draft) => toggle(inPayload(slot, draft), random.pick(DOUBLES), random.pick(DOUBLES)),
  // What the carrier reads: the frame's header and its table.
  (slot, { rope }) => {
    const word = (slot * SLOT_BYTES) / 4;
    switch (random.below(4)) {
      case 0:
        return changeWord(word + FRAME_WORD.schema, random.below(SCHEMAS.length));
      case 1:
        return changeWord(word + FRAME_WORD.inlineBytes, random.below(rope.inline.length + 8));
      case 2:
        return changeWord(word + FRAME_WORD.spanCount, random.below(rope.spans.length + 2));
      default:
        return changeWord(word + FRAME_WORD.byteLength, rope.byteLength + random.below(9) - 4);
    }
  },
  (slot, { rope }) => {
    if (rope.spans.length === 0) return;
    const entry = (slot * SLOT_BYTES) / 4 + FRAME_WORD.table + random.below(SPAN_WORDS * rope.spans.length);
    changeWord(entry, random.once(8) ? random.bits() : ringWords[entry] + random.below(17) - 8);
  },
];
