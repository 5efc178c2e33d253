/**
 * Sends orders one after the other, waits for the answer to each, and measures how long each takes. At the end the
 * server's book must equal the one computed from all orders.
 *
 * Usage: node client.js SOCKET [UPDATES]
 */
import { deepStrictEqual } from "node:assert";
import { createHistogram } from "node:perf_hooks";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import type { OrderUpdateSchema } from "./order_book_pb.js";
import { OrderBookService, Side } from "./order_book_pb.js";

type Order = Required<Omit<MessageInitShape<typeof OrderUpdateSchema>, "$typeName" | "$unknown">>;

const [, , address, updates = "20000"] = process.argv;
const WARM_UP = 2000;
const MIDDLE_TICKS = 10_000;
const live = new Map<number, Order>();
let nextId = 1;

const below = (limit: number) => Math.floor(Math.random() * limit);

/** New orders near the middle, and changes and removals among the last thousand orders. */
function makeOrder(): Order {
  const known = live.get(nextId - 1 - below(1000));
  if (known !== undefined && Math.random() < 0.8)
    return { ...known, quantity: Math.random() < 0.6 ? 0 : 1 + below(500) };
  const side = Math.random() < 0.5 ? Side.BID : Side.ASK;
  const distance = 1 + Math.floor(-Math.log(1 - Math.random()) * 40);
  return {
    orderId: nextId++,
    side,
    priceTicks: MIDDLE_TICKS + (side === Side.BID ? -distance : distance),
    quantity: 1 + below(500),
  };
}

/** The levels, computed from the live orders alone. */
function levelsOf(side: Side) {
  const levels = new Map<number, { priceTicks: number; quantity: number; orders: number }>();
  for (const order of live.values()) {
    if (order.side !== side) continue;
    const { quantity, orders } = levels.get(order.priceTicks) ?? { quantity: 0, orders: 0 };
    levels.set(order.priceTicks, {
      priceTicks: order.priceTicks,
      quantity: quantity + order.quantity,
      orders: orders + 1,
    });
  }
  return [...levels.values()].sort((a, b) =>
    side === Side.BID ? b.priceTicks - a.priceTicks : a.priceTicks - b.priceTicks,
  );
}

const transport = createIsthmusTransport({ address });
const client = createClient(OrderBookService, transport);
const latencyNs = createHistogram();
for (let at = 0; at < WARM_UP + Number(updates); at++) {
  const order = makeOrder();
  const start = process.hrtime.bigint();
  const top = await client.update(order);
  if (at >= WARM_UP) latencyNs.record(process.hrtime.bigint() - start);
  if (order.quantity > 0) live.set(order.orderId, order);
  else live.delete(order.orderId);
  // Rarely, so that the pause after it is not among the slowest calls.
  if (at % 10_000 === 0) {
    const [bid, ask] = [levelsOf(Side.BID)[0], levelsOf(Side.ASK)[0]];
    deepStrictEqual([top.bestBidTicks, top.bidQuantity], [bid?.priceTicks ?? 0, bid?.quantity ?? 0]);
    deepStrictEqual(
      [top.bestAskTicks, top.askQuantity, top.sequence],
      [ask?.priceTicks ?? 0, ask?.quantity ?? 0, at + 1],
    );
  }
}

const book = await client.snapshot({});
const plain = (levels: typeof book.bids) =>
  levels.map(({ priceTicks, quantity, orders }) => ({ priceTicks, quantity, orders }));
deepStrictEqual(
  { bids: plain(book.bids), asks: plain(book.asks) },
  { bids: levelsOf(Side.BID), asks: levelsOf(Side.ASK) },
);

const micros = (percentile: number) => (latencyNs.percentile(percentile) / 1000).toFixed(1);
console.log(
  `${updates} updates over ${transport.carrier}, one at a time: p50 ${micros(50)} µs, p99 ${micros(99)} µs, p99.9 ${micros(99.9)} µs`,
);
console.log(
  `verified: ${book.bids.length} bid levels and ${book.asks.length} ask levels from ${live.size} orders, best ${book.bids[0].priceTicks} / ${book.asks[0].priceTicks}`,
);
await transport.close();
