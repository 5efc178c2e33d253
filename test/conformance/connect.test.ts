/**
 * Connect's conformance suite: its runner starts our client, our server or both, has them make calls of every kind, and
 * compares what became of each with what should: docs/internals/conformance.md. Needs Go, to get and build the runner.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadAddon } from "../../src/os/addon.js";
import type { Carrier } from "./rpc/carriers.js";
import { run, tally } from "./rpc/run.js";
import type { Runner } from "./rpc/runner.js";
import { getRunner } from "./rpc/runner.js";
import { descriptorSetOf } from "./rpc/schema.js";
import type { Suite } from "./rpc/suites.js";
import { forBothSides, httpClientFailures, inapplicable, oneSided, suitesOf } from "./rpc/suites.js";

/** The runner knows HTTP only: this is the one of its protocols that has our own one's errors and trailers. */
const OWN_CARRIERS = `
features:
  versions: [HTTP_VERSION_2]
  protocols: [PROTOCOL_GRPC]
  codecs: [CODEC_PROTO]
  compressions: [COMPRESSION_IDENTITY]
  supportsTls: false
  supportsConnectGet: false
`;

/**
 * JSON is left out: the runner's messages have others in them of which JSON gives the names, and our options take no
 * registry to look them up.
 */
const HTTP_CLIENT = `
features:
  versions: [HTTP_VERSION_2]
  protocols: [PROTOCOL_GRPC, PROTOCOL_GRPC_WEB, PROTOCOL_CONNECT]
  codecs: [CODEC_PROTO]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP]
  supportsTlsClientCerts: true
  supportsConnectGet: false
`;

const HTTP_SERVER = `
features:
  versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_GRPC, PROTOCOL_GRPC_WEB, PROTOCOL_CONNECT]
  codecs: [CODEC_PROTO]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP]
  supportsTlsClientCerts: true
exclude_cases:
# Node does not read on after a request that is too large, and Go's client then waits for the rest to be taken.
- {version: HTTP_VERSION_1, use_message_receive_limit: true}
`;

/** Expects other bytes than it asks for. */
const WRONG = `
name: Wrong
testCases:
- request:
    testName: unary
    streamType: STREAM_TYPE_UNARY
    requestMessages:
    - "@type": type.googleapis.com/connectrpc.conformance.v1.UnaryRequest
      responseDefinition:
        responseData: "AQID"
  expectedResponse:
    payloads:
    - data: "AQIE"
      requestInfo:
        requests:
        - "@type": type.googleapis.com/connectrpc.conformance.v1.UnaryRequest
          responseDefinition:
            responseData: "AQID"
`;

const folder = mkdtempSync(join(tmpdir(), "isthmus-connect-"));
const descriptors = join(folder, "descriptors.binpb");
let runner: Runner | undefined;
let missing: string | undefined;

before(() => {
  const got = getRunner();
  if (typeof got === "string") {
    missing = got;
    return;
  }
  runner = got;
  writeFileSync(descriptors, descriptorSetOf(runner));
});
after(() => rmSync(folder, { recursive: true, force: true }));

/** Our programs over a carrier. */
function programs(carrier: Carrier) {
  const program = (name: string) => [
    process.execPath,
    fileURLToPath(new URL(`./rpc/${name}.js`, import.meta.url)),
    descriptors,
    carrier,
  ];
  return { client: program("client"), server: [...program("server"), folder] };
}

/** The suites that apply to our own carriers, each for both sides at once. */
function ownSuites(from: Runner): Suite[] {
  const left = new Set(inapplicable.flatMap(([, suites]) => suites));
  return suitesOf(from)
    .filter(({ name }) => !left.has(name))
    .map((suite) => (oneSided.includes(suite.name) ? forBothSides(suite) : suite));
}

for (const carrier of ["shm", "socket"] as const) {
  test(`client and server pass Connect's conformance suite over ${carrier}`, (context) => {
    if (runner === undefined) return context.skip(missing);
    if (carrier === "shm" && loadAddon().addon === undefined) return context.skip("no addon");
    const suites = ownSuites(runner);
    const { passed, failed, knownToFail, cases, text } = run(runner, folder, programs(carrier), {
      config: OWN_CARRIERS,
      suites,
    });
    assert.deepEqual({ failed, knownToFail }, { failed: 0, knownToFail: 0 }, text);
    assert.equal(cases.length, passed, text);
    for (const { name } of suites)
      assert.ok(
        cases.some((one) => one.startsWith(`${name}/`)),
        `no case of ${name} ran:\n${text}`,
      );
    report(context, cases, 0);
  });
}

for (const [side, config] of [
  ["client", HTTP_CLIENT],
  ["server", HTTP_SERVER],
] as const) {
  test(`the ${side} passes Connect's conformance suite over HTTP with the suite's own other side`, (context) => {
    if (runner === undefined) return context.skip(missing);
    const knownFailures = side === "client" ? httpClientFailures.map(([pattern]) => pattern) : [];
    const { passed, failed, knownToFail, cases, text } = run(
      runner,
      folder,
      { [side]: programs("http")[side] },
      { config, knownFailures },
    );
    assert.equal(failed, 0, text);
    assert.equal(cases.length, passed + knownToFail, text);
    report(context, cases, knownToFail);
  });
}

test("the runner finds an answer that is wrong", (context) => {
  if (runner === undefined) return context.skip(missing);
  const { passed, failed, text } = run(runner, folder, programs("socket"), {
    config: OWN_CARRIERS,
    suites: [{ name: "Wrong", text: WRONG }],
  });
  assert.deepEqual({ passed, failed }, { passed: 0, failed: 1 }, text);
  assert.match(text, /expecting data 010204, got 010203/);
});

test("no suite is left out, or treated as one for both sides, that the runner does not have", (context) => {
  if (runner === undefined) return context.skip(missing);
  const suites = suitesOf(runner).map(({ name }) => name);
  const named = [...inapplicable.flatMap(([, left]) => left), ...oneSided];
  assert.deepEqual(
    named.filter((name) => !suites.includes(name)),
    [],
  );
});

function report(context: TestContext, cases: readonly string[], knownToFail: number): void {
  const counts = tally(cases);
  for (const [kind, count] of Object.entries(counts)) assert.ok(count > 0, `no case was about ${kind}`);
  const kinds = Object.entries(counts).map(([kind, count]) => `${count} ${kind}`);
  context.diagnostic(`${cases.length - knownToFail} cases passed, ${knownToFail} failed as known: ${kinds.join(", ")}`);
}
