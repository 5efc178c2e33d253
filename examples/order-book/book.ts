/** The server's state: an order book, updated order by order. */
import type { OrderUpdate } from "./order_book_pb.js";
import { Side } from "./order_book_pb.js";

interface Level {
  priceTicks: number;
  quantity: number;
  orders: number;
}

/** The levels of one side, the best price first. */
class HalfBook {
  readonly levels: Level[] = [];
  private readonly sign: 1 | -1;

  /** @param side the best bid is the highest, the best ask the lowest */
  constructor(side: typeof Side.BID | typeof Side.ASK) {
    this.sign = side === Side.BID ? -1 : 1;
  }

  change(priceTicks: number, quantity: number, orders: number): void {
    const at = this.find(priceTicks);
    let level = this.levels[at];
    if (level?.priceTicks !== priceTicks) this.levels.splice(at, 0, (level = { priceTicks, quantity: 0, orders: 0 }));
    level.quantity += quantity;
    level.orders += orders;
    if (level.orders === 0) this.levels.splice(at, 1);
  }

  /** The index of the price, or where to insert it. */
  private find(priceTicks: number): number {
    let low = 0;
    let high = this.levels.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.levels[middle].priceTicks - priceTicks) * this.sign < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export class OrderBook {
  private readonly bids = new HalfBook(Side.BID);
  private readonly asks = new HalfBook(Side.ASK);
  private readonly orders = new Map<number, { half: HalfBook; priceTicks: number; quantity: number }>();
  private sequence = 0;

  update({ orderId, side, priceTicks, quantity }: OrderUpdate) {
    const known = this.orders.get(orderId);
    known?.half.change(known.priceTicks, -known.quantity, -1);
    this.orders.delete(orderId);
    if (quantity > 0) {
      const half = side === Side.BID ? this.bids : this.asks;
      half.change(priceTicks, quantity, 1);
      this.orders.set(orderId, { half, priceTicks, quantity });
    }
    const [bid, ask] = [this.bids.levels[0], this.asks.levels[0]];
    return {
      bestBidTicks: bid?.priceTicks ?? 0,
      bidQuantity: bid?.quantity ?? 0,
      bestAskTicks: ask?.priceTicks ?? 0,
      askQuantity: ask?.quantity ?? 0,
      sequence: ++this.sequence,
    };
  }

  snapshot() {
    return { bids: this.bids.levels, asks: this.asks.levels };
  }
}
