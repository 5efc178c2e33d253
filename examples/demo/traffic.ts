/** Requests for the web server: real HTTP over loopback, a fixed mix, bounded in number, time and concurrency. */
import { Agent, request } from "node:http";

export interface Traffic {
  readonly requests: number;
}

const CONNECTIONS = 16;

/** Method, path, and how often out of the sum of all. */
const MIX: readonly [method: string, path: string, weight: number][] = [
  ["GET", "/api/products?page={n}", 24],
  ["GET", "/", 18],
  ["GET", "/static/app.js", 14],
  ["GET", "/static/site.css", 12],
  ["POST", "/api/orders", 9],
  ["GET", "/api/orders?id={n}", 6],
  ["POST", "/api/login", 5],
  ["GET", "/favicon.ico", 4],
  ["GET", "/wp-login.php", 3],
  ["HEAD", "/", 2],
  ["GET", "/api/report", 2],
  ["DELETE", "/api/cart", 1],
];
const CYCLE = MIX.flatMap(([method, path, weight]) => Array.from({ length: weight }, () => ({ method, path })));
/** Coprime to the cycle's length, so that every step of the cycle is visited, well mixed. */
const STRIDE = 37;

/** Sends requests until `requestsMax` are answered, `millisMax` are over, or `signal` aborts. @throws Error */
export async function sendTraffic(
  port: number,
  requestsMax: number,
  millisMax: number,
  signal: AbortSignal,
): Promise<Traffic> {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  const end = performance.now() + millisMax;
  let started = 0;
  let answered = 0;
  const sendInTurn = async () => {
    while (started < requestsMax && performance.now() < end && !signal.aborted) {
      const number = started++;
      const { method, path } = CYCLE[(number * STRIDE) % CYCLE.length];
      await send(agent, port, method, path.replace("{n}", String(number % 97)));
      answered++;
    }
  };
  try {
    await Promise.all(Array.from({ length: CONNECTIONS }, sendInTurn));
  } finally {
    agent.destroy();
  }
  return { requests: answered };
}

function send(agent: Agent, port: number, method: string, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const headers = { "user-agent": "isthmus-demo/1.0", ...(method === "POST" ? { "content-length": 0 } : {}) };
    request({ agent, host: "127.0.0.1", port, method, path, headers }, (response) => {
      response.once("error", reject).once("end", resolve).resume();
    })
      .once("error", reject)
      .end();
  });
}
