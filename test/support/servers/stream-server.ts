/** A process that serves StreamService. Its data: {@link StreamServerData}. */
import { collectSoon } from "../../../src/memory/v8/gc.js";
import { answerParent, childData } from "../processes.js";
import type { StreamServerData } from "../scenes.js";
import { serveStreamsHere } from "../scenes.js";
import { seenHere, tellToReadHere, totalsHere } from "../stream-service.js";

const server = await serveStreamsHere(childData<StreamServerData>());

answerParent({
  address: () => server.address,
  seen: (call: string) => seenHere(call),
  totals: (prefix: string) => totalsHere(prefix),
  tellToRead: (call: string) => tellToReadHere(call),
  stats: () => server.stats(),
  collect: () => collectSoon(),
  close: (timeoutMs: number | undefined) => server.close(timeoutMs),
});
// It is asked also after it was closed.
process.channel?.ref();
