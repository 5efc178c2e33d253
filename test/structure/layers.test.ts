/** The layers of src/: arrows point one way only. Reads the imports of every source file. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** From the lowest to the highest; a layer may import itself and what stands before it. */
const LAYERS = ["os", "memory", "wire", "codec", "carrier", "send", "rpc", "connect", "grpc-js", "index.ts"];
/** The codec is usable on its own, so it stands on nothing of ours. */
const STANDS_ALONE = new Set(["codec"]);

const root = fileURLToPath(new URL("../../../", import.meta.url));

function layerOf(path: string): string {
  return path.split("/")[1];
}

interface Arrow {
  readonly from: string;
  readonly to: string;
}

/** Every import between files of src/, type imports included. */
function readArrows(): { files: number; arrows: Arrow[] } {
  const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  const arrows: Arrow[] = [];
  for (const name of files) {
    const from = join("src", name);
    const text = readFileSync(join(root, from), "utf8");
    for (const match of text.matchAll(
      /(?:^|\n)\s*(?:import|export)\b[^;]*?from\s*"(\.[^"]+)"|import\(\s*"(\.[^"]+)"\s*\)|(?:^|\n)import\s*"(\.[^"]+)"/g,
    )) {
      const target = match[1] ?? match[2] ?? match[3];
      arrows.push({ from, to: normalize(join(dirname(from), target)) });
    }
  }
  return { files: files.length, arrows };
}

function complaint({ from, to }: Arrow): string | undefined {
  if (!to.startsWith("src/")) return from.includes(".test.") ? undefined : `${from} imports ${to} from outside src/`;
  const [fromLayer, toLayer] = [layerOf(from), layerOf(to).replace(/\.js$/, ".ts")];
  // A test may use whatever lies beside it or above.
  if (from.includes(".test.")) return undefined;
  const [fromRank, toRank] = [LAYERS.indexOf(fromLayer), LAYERS.indexOf(toLayer)];
  if (fromRank < 0 || toRank < 0) return `${from} → ${to}: a folder that is no layer`;
  if (toRank > fromRank) return `${from} → ${to}: ${fromLayer} must not know ${toLayer}`;
  if (STANDS_ALONE.has(fromLayer) && toLayer !== fromLayer) return `${from} → ${to}: ${fromLayer} stands on its own`;
  return undefined;
}

test("imports between the layers of src/ point one way", () => {
  const { files, arrows } = readArrows();
  assert.ok(files > 20, `only ${files} files were found`);
  assert.ok(arrows.length > 60, `only ${arrows.length} imports were found`);
  for (const layer of LAYERS)
    assert.ok(
      arrows.some((arrow) => layerOf(arrow.from) === layer),
      `no import was found in ${layer}: has it moved?`,
    );
  assert.deepEqual(
    arrows.map(complaint).filter((found) => found !== undefined),
    [],
  );
});

test("an arrow against the layers is found", () => {
  assert.match(
    complaint({ from: "src/memory/shared/ring.ts", to: "src/rpc/client.js" }) ?? "",
    /memory must not know rpc/,
  );
  assert.match(complaint({ from: "src/codec/codec.ts", to: "src/memory/ring.js" }) ?? "", /codec stands on its own/);
  assert.match(complaint({ from: "src/rpc/client/client.ts", to: "test/support/temp.js" }) ?? "", /outside src/);
  assert.equal(complaint({ from: "src/rpc/client/client.ts", to: "src/wire/frame.js" }), undefined);
});

/** The rooms of layers, from the lowest to the highest; "" is the layer's own folder. A room imports none above it. */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  memory: ["v8", "shared", "payload", "receive"],
  codec: ["rope", "wire", "compile", "view", ""],
};

/** The room of a file in its layer. */
function roomOf(path: string): string {
  return dirname(path).split("/").slice(2).join("/");
}

test("imports between the rooms of a layer point one way", () => {
  const complaints: string[] = [];
  const seen = new Set<string>();
  for (const { from, to } of readArrows().arrows) {
    const layer = layerOf(from);
    if (!(layer in ROOMS) || layerOf(to) !== layer || from.includes(".test.")) continue;
    const [fromRank, toRank] = [roomOf(from), roomOf(to)].map((room) => ROOMS[layer].indexOf(room));
    if (fromRank < 0 || toRank < 0) complaints.push(`${from} → ${to}: a folder that is no room of ${layer}`);
    else if (toRank > fromRank) complaints.push(`${from} → ${to}: ${roomOf(from)} must not know ${roomOf(to)}`);
    if (fromRank !== toRank) seen.add(layer);
  }
  assert.deepEqual(complaints, []);
  assert.deepEqual([...seen].sort(), Object.keys(ROOMS).sort());
});
