/** The handshake's machines against each other and against messages of a hostile peer, without sockets and memory. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { Violation } from "../../memory/shm/violation.js";
import type { Accepted, HandshakeMessage, Hello } from "../../wire/hello.js";
import { FEATURE, PROTOCOL_VERSION_MAX } from "../../wire/hello.js";
import { retryabilityOf, withRetryability } from "../retryability.js";
import type { Agreement, Handshake, HandshakePort } from "./protocol.js";
import { clientEnd, refusalFor, serverEnd } from "./protocol.js";

const MEMORY = FEATURE.sharedMemory | FEATURE.spans;
type Terms = Parameters<typeof clientEnd>[1];
const TERMS: Terms = { carrier: "auto", lack: undefined, maxStreams: 100, streamWindowBytes: 4096 };

/** Notes what a machine does, in order. */
class FakePort implements HandshakePort {
  readonly carriesDescriptors: boolean;
  descriptorsReceived = 0;
  readonly steps: string[] = [];
  readonly sent: { readonly message: HandshakeMessage; readonly withMemory: boolean }[] = [];
  /** What `makeMemory` returns. */
  lack: string | undefined;
  failures: { readonly send?: Error; readonly join?: Error } = {};
  /** What `takeDescriptors` returns. */
  refusing = false;
  /** How many messages with memory the peer's socket refuses. */
  refusals = 0;

  constructor(carriesDescriptors = true) {
    this.carriesDescriptors = carriesDescriptors;
  }

  makeMemory(): string | undefined {
    this.steps.push("make");
    return this.lack;
  }

  send(message: HandshakeMessage, withMemory: boolean): void {
    this.steps.push(`send ${message.kind}${withMemory ? " with memory" : ""}`);
    this.sent.push({ message, withMemory });
    if (this.failures.send !== undefined) throw this.failures.send;
    if (withMemory && this.refusals-- > 0)
      throw Object.assign(new Error("refused"), { code: "EPERM", errno: -1, syscall: "sendmsg" });
  }

  takeDescriptors(): boolean {
    this.steps.push("take descriptors");
    return this.refusing;
  }

  joinMemory(): void {
    this.steps.push("join");
    if (this.failures.join !== undefined) throw this.failures.join;
  }

  dropMemory(): void {
    this.steps.push("drop");
    this.descriptorsReceived = 0;
  }
}

/** Runs both machines until both agree. */
function shakeHands(
  client: FakePort,
  clientTerms: Terms,
  server: FakePort,
  serverTerms: Terms,
): { client: Agreement; server: Agreement } {
  const asked = clientEnd(client, clientTerms, true);
  const answering = serverEnd(server, serverTerms);
  assert.equal(asked.next().value, "receive");
  assert.equal(answering.next().value, "receive");
  const agreements: Agreement[] = [];
  for (const [machine, from, to] of [
    [answering, client, server],
    [asked, server, client],
  ] as const) {
    const { message, withMemory } = from.sent.at(-1)!;
    if (withMemory) to.descriptorsReceived = 2;
    agreements.push(endOf(machine, message));
  }
  return { server: agreements[0], client: agreements[1] };
}

function endOf(machine: Handshake, message: HandshakeMessage): Agreement {
  const step = machine.next(message);
  if (step.done !== true) assert.fail("the machine wants another message");
  return step.value;
}

/** A client's machine that has sent its HELLO. */
function startedClient(port = new FakePort(), terms = TERMS): { machine: Handshake; hello: Hello } {
  const machine = clientEnd(port, terms, true);
  machine.next();
  return { machine, hello: port.sent[0].message as Hello };
}

const ACCEPTED: Accepted = {
  kind: "accepted",
  version: PROTOCOL_VERSION_MAX,
  features: MEMORY | FEATURE.streams,
  maxStreams: 50,
  streamWindowBytes: 8192,
};

test("two ends with memory share it, and map the peer's only after they have agreed", () => {
  const [client, server] = [new FakePort(), new FakePort()];
  const agreed = shakeHands(client, TERMS, server, { ...TERMS, maxStreams: 7, streamWindowBytes: 8192 });
  assert.deepEqual(client.steps, ["make", "send hello with memory", "join"]);
  assert.deepEqual(server.steps, ["make", "join", "send accepted with memory"]);
  const windows = { own: 4096, peer: 8192 };
  assert.deepEqual(agreed.client, { reason: undefined, spans: true, maxStreams: 7, windows });
  assert.deepEqual(agreed.server, { ...agreed.client, windows: { own: 8192, peer: 4096 } });
});

test("if the server's socket refuses descriptors, they come once it has asked for them", () => {
  const [client, server] = [new FakePort(), new FakePort()];
  client.refusals = 1;
  server.refusing = true;
  const [asked, answering] = [clientEnd(client, TERMS, true), serverEnd(server, TERMS)];
  asked.next();
  answering.next();
  assert.equal(answering.next(client.sent.at(-1)!.message).value, "receive");
  assert.equal(asked.next(server.sent.at(-1)!.message).value, "receive");
  server.descriptorsReceived = 2;
  assert.deepEqual(endOf(answering, client.sent.at(-1)!.message).spans, true);
  assert.deepEqual(endOf(asked, server.sent.at(-1)!.message).spans, true);
  assert.deepEqual(client.steps, ["make", "send hello with memory", "send hello", "send memory with memory", "join"]);
  assert.deepEqual(server.steps, ["make", "take descriptors", "send ready", "join", "send accepted with memory"]);
});

test("who was asked for memory and says something else is refused", () => {
  const server = new FakePort();
  server.refusing = true;
  const machine = serverEnd(server, TERMS);
  machine.next();
  const { hello } = startedClient();
  machine.next(hello);
  assert.throws(() => machine.next(hello), /the client did not send its memory/);
});

test("a client's HELLO says what it offers and needs", () => {
  const { hello } = startedClient(new FakePort(), { ...TERMS, carrier: "shm" });
  assert.equal(hello.featuresSupported, MEMORY | FEATURE.streams);
  assert.equal(hello.featuresRequired, FEATURE.sharedMemory);
  const port = new FakePort();
  clientEnd(port, TERMS, false).next();
  const blocking = port.sent[0].message as Hello;
  assert.deepEqual([blocking.featuresSupported, blocking.featuresRequired], [MEMORY, 0]);
});

for (const [what, change, reason] of [
  ["a client that lacks memory", { client: "no addon" }, "the client uses no shared memory: no addon"],
  ["a server that lacks memory", { server: "no addon" }, "the server uses no shared memory: no addon"],
  ["ends that lack the same", { client: "TCP", server: "TCP" }, "neither end uses shared memory: TCP"],
] as const) {
  test(`${what} streams frames, for a reason that both ends tell alike`, () => {
    const [client, server] = [new FakePort(), new FakePort()];
    const terms = (lack: string | undefined) => ({ ...TERMS, lack });
    const agreed = shakeHands(
      client,
      terms("client" in change ? change.client : undefined),
      server,
      terms("server" in change ? change.server : undefined),
    );
    assert.deepEqual([agreed.client.reason, agreed.server.reason], [reason, reason]);
    assert.deepEqual([agreed.client.spans, agreed.server.spans], [false, false]);
    for (const { steps } of [client, server]) {
      assert.ok(steps.includes("drop"), steps.join());
      assert.ok(!steps.includes("join"), steps.join());
    }
  });
}

test("memory that is refused when it is made counts as lacking, at either end", () => {
  for (const end of ["client", "server"] as const) {
    const ports = { client: new FakePort(), server: new FakePort() };
    ports[end].lack = "refused";
    const agreed = shakeHands(ports.client, TERMS, ports.server, TERMS);
    const reason = `the ${end} uses no shared memory: refused`;
    assert.deepEqual([agreed.client.reason, agreed.server.reason], [reason, reason]);
  }
});

test("a socket that carries no descriptors is offered no memory", () => {
  const [client, server] = [new FakePort(false), new FakePort(false)];
  const agreed = shakeHands(client, { ...TERMS, lack: "TCP" }, server, { ...TERMS, lack: "TCP" });
  assert.deepEqual(client.steps, ["send hello", "drop"]);
  assert.deepEqual(agreed.client.windows, { own: 4096, peer: 4096 });
});

test("an end that insists on memory fails the handshake, and the client is told why", () => {
  for (const [clientTerms, serverTerms, text] of [
    [{ ...TERMS, carrier: "shm" }, { ...TERMS, lack: "no addon" }, /the client insists on shared memory/],
    [{ ...TERMS, lack: "no addon" }, { ...TERMS, carrier: "shm" }, /the server insists on shared memory/],
  ] as const) {
    const port = new FakePort();
    const server = serverEnd(new FakePort(), serverTerms);
    server.next();
    const { hello, machine } = startedClient(port, clientTerms);
    let refused: ConnectError | undefined;
    try {
      server.next(hello);
    } catch (error) {
      refused = error as ConnectError;
    }
    assert.equal(refused?.code, Code.FailedPrecondition);
    assert.match(refused.rawMessage, text);
    assert.throws(
      () => machine.next(refusalFor(refused)),
      (error: ConnectError) =>
        error.code === Code.FailedPrecondition && text.test(error.rawMessage) && retryabilityOf(error) === "permanent",
    );
  }
});

test("a refusal says what to expect of another attempt", () => {
  const draining = withRetryability(new ConnectError("going away", Code.Unavailable), "draining");
  assert.deepEqual(refusalFor(draining), {
    kind: "refused",
    code: Code.Unavailable,
    retryability: "draining",
    message: "going away",
  });
  const cases = [
    [refusalFor(draining), "draining", Code.Unavailable],
    [refusalFor(new ConnectError("no", Code.PermissionDenied)), "permanent", Code.PermissionDenied],
    // From a server that does not say it.
    [{ kind: "refused", code: Code.Unavailable, message: "x" }, "draining", Code.Unavailable],
    [{ kind: "refused", code: Code.NotFound, message: "x" }, "permanent", Code.NotFound],
    // A code that there is not.
    [{ kind: "refused", code: 77, message: "x" }, "permanent", Code.Unknown],
  ] as const;
  for (const [message, retryability, code] of cases) {
    const { machine } = startedClient();
    assert.throws(
      () => machine.next(message),
      (error: ConnectError) => error.code === code && retryabilityOf(error) === retryability,
    );
  }
});

test("a client that is refused before its HELLO arrives reads the refusal", () => {
  const port = new FakePort();
  port.failures = { send: Object.assign(new Error("broken pipe"), { code: "EPIPE", errno: -32, syscall: "sendmsg" }) };
  const machine = clientEnd(port, TERMS, true);
  assert.equal(machine.next().value, "receive");
  const other = new FakePort();
  other.failures = { send: new Error("something else") };
  assert.throws(() => clientEnd(other, TERMS, true).next(), /something else/);
});

test("a client accepts nothing that it did not offer", () => {
  const { hello } = startedClient();
  for (const [answer, text] of [
    [hello, /with a greeting of its own/],
    [{ ...ACCEPTED, version: PROTOCOL_VERSION_MAX + 1 }, /protocol version/],
    [{ ...ACCEPTED, version: 0 }, /protocol version/],
    [{ ...ACCEPTED, features: 1 << 20 }, /features 0x100000/],
  ] as const) {
    const port = new FakePort();
    const { machine } = startedClient(port);
    assert.throws(
      () => machine.next(answer),
      (error: ConnectError) => text.test(error.rawMessage) && retryabilityOf(error) === "permanent",
    );
    assert.ok(!port.steps.includes("join"), port.steps.join());
  }
  const { machine } = startedClient(new FakePort(), { ...TERMS, carrier: "shm" });
  assert.throws(
    () => machine.next({ ...ACCEPTED, features: FEATURE.streams }),
    /shared memory that this client requires/,
  );
});

test("a server answers nothing but HELLO", () => {
  const port = new FakePort();
  const machine = serverEnd(port, TERMS);
  machine.next();
  assert.throws(() => machine.next(ACCEPTED), /did not start with a greeting/);
  assert.deepEqual(port.steps, []);
});

test("descriptors without shared memory break the protocol, except a client's that offered it", () => {
  const port = new FakePort();
  const { machine } = startedClient(port);
  port.descriptorsReceived = 1;
  assert.throws(() => machine.next({ ...ACCEPTED, features: FEATURE.streams }), Violation);

  const server = new FakePort();
  const answering = serverEnd(server, TERMS);
  answering.next();
  server.descriptorsReceived = 2;
  const { hello } = startedClient(new FakePort(), { ...TERMS, lack: "none" });
  assert.throws(() => answering.next(hello), Violation);

  const without = new FakePort();
  const lacking = serverEnd(without, { ...TERMS, lack: "none" });
  lacking.next();
  without.descriptorsReceived = 2;
  endOf(lacking, startedClient().hello);
  assert.deepEqual(without.steps, ["drop", "send accepted"]);
});

test("a client whose memory cannot be mapped is not accepted", () => {
  const port = new FakePort();
  port.descriptorsReceived = 2;
  port.failures = { join: new Violation("SEGMENT-1", "no seals") };
  const machine = serverEnd(port, TERMS);
  machine.next();
  assert.throws(() => machine.next(startedClient().hello), Violation);
  assert.deepEqual(port.steps, ["make", "join"]);
});

test("a peer that knows no streams gets no windows", () => {
  const { machine } = startedClient();
  assert.equal(endOf(machine, { ...ACCEPTED, features: MEMORY }).windows, undefined);
  const older = startedClient().machine;
  const { kind, version, features, maxStreams } = ACCEPTED;
  assert.equal(endOf(older, { kind, version, features, maxStreams }).windows, undefined);
});
