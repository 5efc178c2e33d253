/** Keeps the book. Usage: node server.js SOCKET */
import { createIsthmusServer } from "../../src/index.js";
import { OrderBook } from "./book.js";
import { OrderBookService } from "./order_book_pb.js";

const book = new OrderBook();
const server = createIsthmusServer({
  routes: (router) =>
    router.service(OrderBookService, {
      update: (order) => book.update(order),
      snapshot: () => book.snapshot(),
    }),
});
await server.listen(process.argv[2]);
process.once("SIGTERM", () => void server.close());
