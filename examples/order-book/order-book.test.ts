import assert from "node:assert/strict";
import { test } from "node:test";
import { loadAddon } from "../../src/os/addon.js";
import { runExample } from "../run.test.util.js";
import { OrderBook } from "./book.js";
import type { OrderUpdate } from "./order_book_pb.js";
import { Side } from "./order_book_pb.js";

const skip = loadAddon().reason ?? false;

test("the order book example ends with the book that its orders make, and prints latencies", {
  skip,
  timeout: 600_000,
}, async (context) => {
  const output = await runExample(context, "order-book", "3000");
  const [, p50, p99, p999] =
    /^3000 updates over shm, one at a time: p50 ([\d.]+) µs, p99 ([\d.]+) µs, p99.9 ([\d.]+) µs$/m.exec(output) ?? [];
  assert.ok(Number(p50) > 0 && Number(p50) <= Number(p99) && Number(p99) <= Number(p999), output);
  assert.match(
    output,
    /^verified: [1-9]\d* bid levels and [1-9]\d* ask levels from [1-9]\d* orders, best \d+ \/ \d+$/m,
  );
});

test("an order that is removed leaves its level, and an empty level the book", () => {
  const book = new OrderBook();
  const order = (orderId: number, side: Side, priceTicks: number, quantity: number) =>
    book.update({ orderId, side, priceTicks, quantity } as OrderUpdate);
  order(1, Side.BID, 99, 10);
  order(2, Side.BID, 100, 5);
  order(3, Side.ASK, 102, 7);
  assert.deepEqual(order(4, Side.BID, 100, 3), {
    bestBidTicks: 100,
    bidQuantity: 8,
    bestAskTicks: 102,
    askQuantity: 7,
    sequence: 4,
  });
  order(2, Side.BID, 100, 0);
  assert.deepEqual(order(4, Side.BID, 98, 1), {
    bestBidTicks: 99,
    bidQuantity: 10,
    bestAskTicks: 102,
    askQuantity: 7,
    sequence: 6,
  });
  assert.deepEqual(
    book.snapshot().bids.map(({ priceTicks }) => priceTicks),
    [99, 98],
  );
  assert.equal(order(3, Side.ASK, 102, 0).bestAskTicks, 0);
});
