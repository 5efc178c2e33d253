/** A process that begins a handshake and gets no further, so that it can be killed at exactly that point. */
import { createServer, connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { createOwnMemory } from "../../src/memory/shm/segment.js";
import { requireAddon } from "../../src/os/addon.js";
import { encodeHandshake, FEATURE, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN } from "../../src/wire/hello.js";
import { obey } from "../stress/peer.js";

const GEOMETRY = { ringBytes: 262_144, releaseSlots: 4096, arenaBytes: 8 << 20 };

obey({
  /** Connects and says nothing. */
  connectOnly: (path: string) =>
    new Promise<void>((resolve, reject) => {
      connect(path)
        .on("connect", () => resolve())
        .on("error", reject);
    }),
  /** Sends the first `byteLength` bytes of HELLO, with the descriptors; all of it by default. */
  async hello({ path, byteLength }: { path: string; byteLength?: number }) {
    const addon = requireAddon();
    const socket = addon.connectSocket(path);
    const own = createOwnMemory(addon, GEOMETRY, false);
    const bytes = encodeHandshake({
      kind: "hello",
      minVersion: PROTOCOL_VERSION_MIN,
      maxVersion: PROTOCOL_VERSION_MAX,
      featuresSupported: FEATURE.sharedMemory,
      featuresRequired: 0,
      maxStreams: 100,
    });
    const start = bytes.subarray(0, byteLength ?? bytes.length);
    try {
      addon.sendMessage(socket, start, [own.ringDescriptor, own.arenaDescriptor]);
    } catch {
      // The server takes no descriptors before it asks for them (LISTEN-4).
      addon.sendMessage(socket, start, []);
      if (byteLength !== undefined) return;
      while (addon.receiveMessage(socket, new Uint8Array(16)).byteLength < 0) await sleep(1);
      addon.sendMessage(socket, encodeHandshake({ kind: "memory" }), [own.ringDescriptor, own.arenaDescriptor]);
    }
  },
  /** A server that accepts and never answers. */
  acceptOnly: (path: string) =>
    new Promise<void>((resolve) => {
      createServer(() => undefined).listen(path, () => resolve());
    }),
});
