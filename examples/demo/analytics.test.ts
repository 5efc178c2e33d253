import assert from "node:assert/strict";
import test from "node:test";
import { accessLogLine } from "./access-log.js";
import { LogCounts } from "./analytics.js";

function countsOf(...blocks: string[]): LogCounts {
  const counts = new LogCounts();
  for (const block of blocks) counts.add(Buffer.from(block, "latin1"));
  return counts;
}

const line = (request: string, status: string | number, rest = " 12") =>
  `10.0.0.1 - - [22/Nov/2026:16:59:55 +0000] "${request}" ${status}${rest}\n`;

test("common and combined lines are counted by status and path", () => {
  const counts = countsOf(
    line("GET /a HTTP/1.1", 200),
    line("GET /a?x=1 HTTP/1.1", 200, ' 12 "-" "agent"'),
    line("POST /b HTTP/1.1", 404),
  );
  assert.equal(counts.lines, 3);
  assert.equal(counts.parsed, 3);
  assert.deepEqual(counts.statuses(), [
    { status: 200, count: 2 },
    { status: 404, count: 1 },
  ]);
  assert.deepEqual(counts.topPaths(10), [
    { path: "/a", count: 2 },
    { path: "/b", count: 1 },
  ]);
});

test("what is not in access-log format counts as a line and nothing else", () => {
  const others = [
    "",
    "text",
    '" 404 ',
    '] "GET /" 404',
    '] "GET /" 99 ',
    '] "GET /" 604 ',
    '] "GET /"404 ',
    '] "GET / 404 ',
    'x "GET /" 404 ',
    '"GET /" 404 ',
    ']  "',
    '] "',
  ];
  const counts = countsOf(others.map((text) => `${text}\n`).join(""));
  assert.equal(counts.lines, others.length);
  assert.equal(counts.newlines, others.length);
  assert.equal(counts.parsed, 0);
  assert.deepEqual(counts.statuses(), []);
});

test("the status is the one after the request, not one that a client wrote into it", () => {
  const counts = countsOf(line("GET /x HTTP/1.1", 200, ' 5 "] " 404 " "a"'));
  assert.deepEqual(counts.statuses(), [{ status: 200, count: 1 }]);
});

test("a last line without newline is a line, but wc -l will not see it", () => {
  const counts = countsOf(line("GET / HTTP/1.1", 200), line("GET / HTTP/1.1", 500).trimEnd());
  assert.deepEqual([counts.lines, counts.newlines, counts.parsed], [2, 1, 2]);
});

test("carriage returns, zero bytes and invalid UTF-8 are bytes like any other", () => {
  const counts = countsOf(`${line("GET /a\xff\x00\xfe HTTP/1.1", 200).trimEnd()}\r\n`, "\r\n", "\xff\xff\n");
  assert.deepEqual([counts.lines, counts.newlines, counts.parsed], [3, 3, 1]);
  assert.equal(counts.topPaths(1)[0].path, "/a\ufffd\0\ufffd");
});

test("a line of a megabyte is counted, and its path cut", () => {
  const counts = countsOf(line(`GET /${"p".repeat(1 << 20)} HTTP/1.1`, 200));
  assert.equal(counts.parsed, 1);
  assert.equal(counts.topPaths(1)[0].path.length, 200);
});

test("top paths come most frequent first, ties by name", () => {
  const requests = ["/c", "/a", "/b", "/b", "/d", "/e"].map((path) => line(`GET ${path} HTTP/1.1`, 200)).join("");
  assert.deepEqual(
    countsOf(requests)
      .topPaths(3)
      .map(({ path }) => path),
    ["/b", "/a", "/c"],
  );
  assert.deepEqual(countsOf(requests).topPaths(0), []);
});

test("a request without a path is counted by status only", () => {
  const counts = countsOf(line("-", 400), line("", 400), line("GET ", 400), line("GET ?x", 400));
  assert.equal(counts.parsed, 4);
  assert.deepEqual(counts.topPaths(5), []);
});

test("the demo's own web server writes lines that are counted, whatever a client sends", () => {
  const entry = { client: "127.0.0.1", time: new Date(0), status: 404, bytes: 3, referrer: "-" };
  const written = accessLogLine({ ...entry, request: 'GET /"\\\n\u00e9 HTTP/1.1', agent: '"] "x" 200 ' });
  assert.equal(
    written,
    '127.0.0.1 - - [01/Jan/1970:00:00:00 +0000] "GET /\\x22\\x5C\\x0A\\xC3\\xA9 HTTP/1.1" 404 3 "-" "\\x22] \\x22x\\x22 200 "\n',
  );
  assert.deepEqual(countsOf(written).statuses(), [{ status: 404, count: 1 }]);
});
