/**
 * The structure of src/: imports between layers, and between the rooms (folders) of a layer, point one way, and no
 * circle of imports spans two folders. Reads the imports of every source file, type imports included.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** From the lowest to the highest. A layer may import itself and the layers before it. */
const LAYERS = ["os", "memory", "wire", "codec", "carrier", "send", "rpc", "connect", "grpc-js", "index.ts"];
/** The codec can be used on its own, so it imports no other layer. */
const STANDS_ALONE = new Set(["codec"]);

/**
 * The rooms of a layer, from the lowest to the highest; "." is the files of the layer's own folder. A room may import
 * itself and the rooms of earlier rows. Rooms of the same row do not know each other.
 */
const ROOMS: Readonly<Record<string, readonly (readonly string[])[]>> = {
  memory: [["v8", "kept"], ["shm"], ["payload"], ["receive"]],
  codec: [["rope"], ["wire"], ["compile"], ["view"], ["."]],
  carrier: [["."], ["poll"], ["shm", "socket"], ["blocking"], ["handshake"]],
  rpc: [["."], ["stream"], ["client", "server"]],
  connect: [["types"], ["options"], ["."], ["payloads", "http", "services"], ["client", "server"]],
};

const root = fileURLToPath(new URL("../../../", import.meta.url));

function layerOf(path: string): string {
  return path.split("/")[1];
}

/** The folder inside of the layer. */
function roomOf(path: string): string {
  return dirname(path).split("/")[2] ?? ".";
}

interface Arrow {
  readonly from: string;
  readonly to: string;
}

/** Every import between files of src/. */
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
      arrows.push({ from, to: normalize(join(dirname(from), target)).replace(/\.js$/, ".ts") });
    }
  }
  return { files: files.length, arrows };
}

/** A test may import whatever it needs. */
function isTest(path: string): boolean {
  return path.includes(".test.");
}

function complaint({ from, to }: Arrow): string | undefined {
  if (isTest(from)) return undefined;
  if (!to.startsWith("src/")) return `${from} imports ${to} from outside src/`;
  const [fromLayer, toLayer] = [layerOf(from), layerOf(to)];
  const [fromRank, toRank] = [LAYERS.indexOf(fromLayer), LAYERS.indexOf(toLayer)];
  if (fromRank < 0 || toRank < 0) return `${from} → ${to}: a folder that is no layer`;
  if (toRank > fromRank) return `${from} → ${to}: ${fromLayer} must not know ${toLayer}`;
  if (STANDS_ALONE.has(fromLayer) && toLayer !== fromLayer) return `${from} → ${to}: ${fromLayer} stands on its own`;
  return fromLayer === toLayer ? roomComplaint({ from, to }) : undefined;
}

function roomComplaint({ from, to }: Arrow): string | undefined {
  const [fromRoom, toRoom] = [roomOf(from), roomOf(to)];
  if (fromRoom === toRoom) return undefined;
  const rows = ROOMS[layerOf(from)] ?? [];
  const [fromRow, toRow] = [fromRoom, toRoom].map((room) => rows.findIndex((row) => row.includes(room)));
  if (fromRow < 0 || toRow < 0) return `${from} → ${to}: a room that this test does not know`;
  if (toRow >= fromRow) return `${from} → ${to}: room ${fromRoom} must not know room ${toRoom}`;
  return undefined;
}

/** Groups of files that import each other, directly or by way of others (Tarjan's strongly connected components). */
function circlesOf(arrows: readonly Arrow[]): string[][] {
  const targets = new Map<string, string[]>();
  for (const { from, to } of arrows) targets.set(from, [...(targets.get(from) ?? []), to]);
  const order = new Map<string, number>();
  const lowest = new Map<string, number>();
  const open: string[] = [];
  const circles: string[][] = [];
  const visit = (file: string): void => {
    order.set(file, order.size);
    lowest.set(file, order.get(file)!);
    open.push(file);
    for (const target of targets.get(file) ?? []) {
      if (!order.has(target)) visit(target);
      if (open.includes(target)) lowest.set(file, Math.min(lowest.get(file)!, lowest.get(target)!));
    }
    if (lowest.get(file) !== order.get(file)) return;
    const circle = open.splice(open.indexOf(file));
    if (circle.length > 1) circles.push(circle.sort());
  };
  for (const file of targets.keys()) if (!order.has(file)) visit(file);
  return circles;
}

function circlesAcrossFolders(arrows: readonly Arrow[]): string[] {
  return circlesOf(arrows.filter(({ from }) => !isTest(from)))
    .filter((circle) => new Set(circle.map(dirname)).size > 1)
    .map((circle) => circle.join(" ⇄ "));
}

test("imports between the layers and rooms of src/ point one way", () => {
  const { files, arrows } = readArrows();
  assert.ok(files > 20, `only ${files} files were found`);
  assert.ok(arrows.length > 60, `only ${arrows.length} imports were found`);
  for (const layer of LAYERS)
    assert.ok(
      arrows.some((arrow) => layerOf(arrow.from) === layer),
      `no import was found in ${layer}: has it moved?`,
    );
  for (const [layer, rows] of Object.entries(ROOMS))
    for (const room of rows.flat())
      assert.ok(
        arrows.some((arrow) => [arrow.from, arrow.to].some((file) => layerOf(file) === layer && roomOf(file) === room)),
        `no import was found of ${layer}/${room}: has it moved?`,
      );
  assert.deepEqual(
    arrows.map(complaint).filter((found) => found !== undefined),
    [],
  );
});

test("no circle of imports spans two folders", () => {
  assert.deepEqual(circlesAcrossFolders(readArrows().arrows), []);
});

test("an arrow against the layers is found", () => {
  assert.match(
    complaint({ from: "src/memory/shm/ring.ts", to: "src/rpc/client/client.ts" }) ?? "",
    /memory must not know rpc/,
  );
  assert.match(
    complaint({ from: "src/codec/codec.ts", to: "src/memory/shm/ring.ts" }) ?? "",
    /codec stands on its own/,
  );
  assert.match(complaint({ from: "src/rpc/client/client.ts", to: "test/support/temp.ts" }) ?? "", /outside src/);
  assert.equal(complaint({ from: "src/rpc/client/client.ts", to: "src/wire/frame.ts" }), undefined);
});

test("an arrow against the rooms of a layer is found", () => {
  assert.match(
    complaint({ from: "src/connect/options/table.ts", to: "src/connect/client/dialer.ts" }) ?? "",
    /room options must not know room client/,
  );
  assert.match(
    complaint({ from: "src/rpc/client/client.ts", to: "src/rpc/server/server.ts" }) ?? "",
    /room client must not know room server/,
  );
  assert.match(
    complaint({ from: "src/rpc/errors.ts", to: "src/rpc/client/client.ts" }) ?? "",
    /room \. must not know room client/,
  );
  assert.match(complaint({ from: "src/rpc/errors.ts", to: "src/rpc/new/a.ts" }) ?? "", /does not know/);
  assert.equal(complaint({ from: "src/rpc/client/client.ts", to: "src/rpc/errors.ts" }), undefined);
});

test("a circle of imports that spans two folders is found, and one inside a folder is not", () => {
  const arrow = (from: string, to: string) => ({ from: `src/${from}.ts`, to: `src/${to}.ts` });
  const line = [arrow("rpc/a", "rpc/b"), arrow("rpc/b", "wire/c")];
  assert.deepEqual(circlesAcrossFolders(line), []);
  assert.deepEqual(circlesAcrossFolders([...line, arrow("rpc/b", "rpc/a")]), []);
  assert.deepEqual(circlesAcrossFolders([...line, arrow("wire/c", "rpc/a")]), [
    "src/rpc/a.ts ⇄ src/rpc/b.ts ⇄ src/wire/c.ts",
  ]);
});
