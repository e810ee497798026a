// What a page reports, with a window and a document of the test.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../src/index.js";

class FakeSocket {
  static all = [];
  sent = [];
  constructor() {
    FakeSocket.all.push(this);
    queueMicrotask(() => this.onopen?.());
  }
  send(text) {
    const frame = JSON.parse(text);
    this.sent.push(frame);
    const { topic, delivery } = frame.subscribe ?? {};
    if (topic) this.receive({ id: frame.id, subscribed: { topic, position: "5:1", recovered: true, delivery } });
  }
  receive(frame) {
    queueMicrotask(() => this.onmessage?.({ data: JSON.stringify(frame) }));
  }
  close() {}
}

function openPage(context, hidden) {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden });
  Object.assign(globalThis, { window, document });
  context.after(() => {
    delete globalThis.window;
    delete globalThis.document;
  });
  FakeSocket.all = [];
  return { window, document };
}

function show(document, isShown) {
  document.hidden = !isShown;
  document.dispatchEvent(new Event("visibilitychange"));
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 5));

test("page that is hidden from the start and pauses receives nothing until it is shown", async (context) => {
  const { document } = openPage(context, true);
  const client = connect("http://node", { WebSocket: FakeSocket, whenHidden: "pause" });
  context.after(() => client.close());
  client.subscribe("a", { delivery: "latest" });
  await settle();
  const [socket] = FakeSocket.all;
  assert.deepEqual(socket.sent, []);
  show(document, true);
  assert.deepEqual(
    socket.sent.map(({ subscribe }) => subscribe.topic),
    ["a"],
  );
});

test("page that is hidden asks for a lower rate, and for its own again when it is shown", async (context) => {
  const { document } = openPage(context, false);
  const client = connect("http://node", { WebSocket: FakeSocket, whenHidden: { rate: 1 } });
  context.after(() => client.close());
  client.subscribe("a", { delivery: "latest" });
  await settle();
  show(document, false);
  await settle();
  show(document, true);
  await settle();
  const deliveries = FakeSocket.all[0].sent.map(({ subscribe }) => subscribe?.delivery);
  assert.deepEqual(deliveries, ["latest", undefined, { rate: 1 }, undefined, "latest"]);
});

test("page from the cache of the browser, and a network that is back, check the connection", async (context) => {
  const { window, document } = openPage(context, false);
  context.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  for (const [target, name] of [
    [window, "pageshow"],
    [window, "online"],
    [document, "visibilitychange"],
  ]) {
    const client = connect("http://node", { WebSocket: FakeSocket });
    context.after(() => client.close());
    const socket = FakeSocket.all.at(-1);
    socket.onopen();
    context.mock.timers.tick(20_000);
    target.dispatchEvent(new Event(name));
    assert.equal(socket.sent.length, 1, name);
    const disconnected = new Promise((resolve) => client.on("disconnected", resolve));
    context.mock.timers.tick(3_000);
    assert.equal((await disconnected).reason, "the node is silent");
    client.close();
    target.dispatchEvent(new Event(name));
    assert.equal(socket.sent.length, 1, "a closed client does not listen");
  }
});

test("no timer is longer than a minute", async (context) => {
  openPage(context, false);
  const delays = [];
  const original = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (callback, delay) => {
    delays.push(delay);
    return original(callback, delay);
  });
  const client = connect("http://node", { WebSocket: FakeSocket });
  context.after(() => client.close());
  FakeSocket.all[0].onopen();
  assert.ok(delays.includes(60_000) && Math.max(...delays) === 60_000, delays.join());
});

test("page without storage remembers nothing and works", async (context) => {
  Object.defineProperty(globalThis, "localStorage", {
    configurable: true,
    get: () => {
      throw new Error("denied");
    },
  });
  context.after(() => delete globalThis.localStorage);
  const client = connect("http://node", { WebSocket: FakeSocket });
  context.after(() => client.close());
  await settle();
  assert.equal(client.state, "open");
});

test("transport that the page before had to use is used first", async (context) => {
  const localStorage = { "pushonce http://node": `sse ${Date.now() + 1_000}` };
  Object.defineProperty(globalThis, "localStorage", { configurable: true, value: localStorage });
  context.after(() => delete globalThis.localStorage);
  FakeSocket.all = [];
  const fetch = async () => new Response(null, { status: 204 });
  const client = connect("http://node", { WebSocket: FakeSocket, fetch });
  context.after(() => client.close());
  const { transport } = await new Promise((resolve) => client.on("connected", resolve));
  assert.deepEqual([transport, FakeSocket.all], ["sse", []]);
});

test("transport that a page had to use is forgotten when a WebSocket opens", async (context) => {
  const localStorage = { "pushonce http://node": `sse ${Date.now() - 1}` };
  Object.defineProperty(globalThis, "localStorage", { configurable: true, value: localStorage });
  context.after(() => delete globalThis.localStorage);
  const client = connect("http://node", { WebSocket: FakeSocket });
  context.after(() => client.close());
  await settle();
  assert.deepEqual([client.state, localStorage], ["open", {}]);
});

test("snapshot uses the token that the connection asked for", async (context) => {
  const reasons = [];
  const headers = [];
  const client = connect("http://node", {
    WebSocket: FakeSocket,
    token: async ({ reason }) => {
      reasons.push(reason);
      return "t1";
    },
    fetch: async (url, init) => {
      headers.push([url, init.headers]);
      return new Response('{"score":1}', {
        headers: { "content-type": "application/json", "pushonce-position": "5:3" },
      });
    },
  });
  context.after(() => client.close());
  const { data, position } = await client.snapshot("a b/c");
  assert.deepEqual([data, position, reasons], [{ score: 1 }, "5:3", ["connect"]]);
  assert.deepEqual(headers, [["http://node/topics/a%20b/c", { authorization: "Bearer t1" }]]);
});

test("function that returns no token is called again", async (context) => {
  const client = connect("http://node", { WebSocket: FakeSocket, token: () => undefined });
  context.after(() => client.close());
  const { reason } = await new Promise((resolve) => client.on("disconnected", resolve));
  assert.match(reason, /no token: TypeError/);
});

test("client without a WebSocket or an address fails at once", () => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  assert.throws(() => connect("http://node"), { name: "TypeError", message: /give \{ WebSocket \}/ });
  if (WebSocket) globalThis.WebSocket = WebSocket;
  assert.throws(() => connect([], { WebSocket: FakeSocket }), TypeError);
  assert.throws(() => connect("quic://node:7443", { WebSocket: FakeSocket }), TypeError);
});
