/** A process that begins a handshake and gets no further, so that it can be killed at exactly that point. */
import { createServer, connect } from "node:net";
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
  hello({ path, byteLength }: { path: string; byteLength?: number }) {
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
    addon.sendMessage(socket, bytes.subarray(0, byteLength ?? bytes.length), [own.ringDescriptor, own.arenaDescriptor]);
  },
  /** A server that accepts and never answers. */
  acceptOnly: (path: string) =>
    new Promise<void>((resolve) => {
      createServer(() => undefined).listen(path, () => resolve());
    }),
});
