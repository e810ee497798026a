// The transports over HTTP, with responses that the test writes.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { open } from "../src/fallback.js";
import { httpError } from "../src/http-error.js";
import { toBytes } from "../src/payload.js";

/** A node whose requests the test answers. */
class FakeNode {
  requests = [];
  frames = [];
  closes = [];
  remembered = [];
  isOpen = false;

  constructor(transport, { isDown = false } = {}) {
    this.isDown = isDown;
    const events = {
      opened: () => (this.isOpen = true),
      frame: (frame, text) => this.frames.push(text === ":" ? ":" : frame),
      closed: (code, reason) => this.closes.push([code, reason]),
    };
    this.connection = open(transport, {
      address: "http://node",
      events,
      fetch: (url, init) => this.#fetch(url, init),
      httpError,
      toBytes,
      store: (...args) => this.remembered.push(args),
    });
    connections.push(this.connection);
  }

  #fetch(url, { method = "GET", headers = {}, body, signal }) {
    return new Promise((resolve, reject) => {
      if (this.isDown) return reject(new TypeError("refused"));
      if (method === "OPTIONS") return resolve(new Response(null, { status: 204 }));
      const path = decodeURIComponent(url.replace("http://node", "").replaceAll("+", " "));
      const request = { method, path, headers, body, isAborted: false, reject };
      signal.addEventListener("abort", () => {
        request.isAborted = true;
        request.stream?.error(new Error("aborted"));
        reject(new Error("aborted"));
      });
      request.respond = (status, content, responseHeaders = {}) => {
        const text = content === undefined || typeof content === "string" ? content : JSON.stringify(content);
        resolve(new Response(status === 204 ? null : text, { status, headers: responseHeaders }));
      };
      request.begin = () => {
        const stream = new ReadableStream({ start: (controller) => (request.stream = controller) });
        resolve(new Response(stream, { headers: { "content-type": "text/event-stream" } }));
      };
      request.write = (text) => request.stream.enqueue(new TextEncoder().encode(text));
      this.requests.push(request);
      return undefined;
    });
  }

  async send(...frames) {
    for (const frame of frames) this.connection.send(frame);
    await settle();
  }

  /** Requests that were not aborted. */
  get active() {
    return this.requests.filter(({ isAborted }) => !isAborted);
  }

  /** The frames so far, without comments. */
  take() {
    return this.frames.splice(0).filter((frame) => frame !== ":");
  }
}

const connections = [];
afterEach(() => connections.splice(0).forEach((connection) => connection.close()));

const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
const subscribe = (id, topic, from = "now", delivery = undefined) => ({ id, subscribe: { topic, from, delivery } });
const event = (name, frame) => `event: ${name}\ndata: ${JSON.stringify(frame)}\n\n`;
const message = (topic, position) => ({ message: { topic, position, time: 1, data: position } });
const subscribed = (id, topic, position) => ({ id, subscribed: { topic, position, recovered: true } });

test("node that is down is no connection", async () => {
  for (const transport of ["sse", "long-poll"]) {
    const node = new FakeNode(transport, { isDown: true });
    await settle();
    assert.deepEqual([node.isOpen, node.closes], [false, [[undefined, "TypeError: refused"]]]);
  }
});

test("subscriptions of one turn share an event stream and receive its frames with their ids", async () => {
  const node = new FakeNode("sse");
  await settle();
  assert.ok(node.isOpen);
  await node.send(subscribe(1, "a"), subscribe(2, "b c"));
  const [stream] = node.requests;
  assert.equal(stream.path, "/sse?topic=a&topic=b c&from=now");
  stream.begin();
  stream.write("retry: 900\n\n:\n\n" + event("subscribed", subscribed(2, "b c", "5:7")));
  stream.write(`data: ${JSON.stringify(message("b c", "5:8"))}\n\nid: -,5:8\n\n`);
  stream.write(event("gap", { gap: { topic: "b c", from: "5:9", to: "5:12", reason: "expired" } }));
  await settle();
  assert.deepEqual(node.take(), [
    subscribed(2, "b c", "5:7"),
    message("b c", "5:8"),
    { gap: { topic: "b c", from: "5:9", to: "5:12", reason: "expired" } },
  ]);
  assert.equal(node.requests.length, 1);
});

test("events that are split between chunks are whole", async () => {
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"));
  const [stream] = node.requests;
  stream.begin();
  for (const byte of new TextEncoder().encode(`data: ${JSON.stringify(message("a", "ü"))}\n\n`))
    stream.stream.enqueue(Uint8Array.of(byte));
  await settle();
  assert.deepEqual(node.take(), [message("a", "ü")]);
});

test("another subscription begins the streams again where they stopped", async () => {
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"), subscribe(2, "b", { position: "3:4" }), subscribe(3, "c", "start", "latest"));
  assert.deepEqual(
    node.requests.map(({ path }) => path),
    ["/sse?topic=a&from=now", "/sse?topic=b&from=3:4", "/sse?topic=c&from=start&delivery=latest"],
  );
  node.requests.forEach((request) => request.begin());
  node.requests[0].write(event("subscribed", subscribed(1, "a", "5:7")));
  node.requests[1].write(
    event("subscribed", subscribed(1, "b", "3:9")) + `data: ${JSON.stringify(message("b", "3:5"))}\n\n`,
  );
  await settle();
  node.take();
  await node.send(subscribe(4, "d", { last: 3 }));
  assert.deepEqual(
    node.active.map(({ path }) => path),
    ["/sse?topic=a&topic=b&from=5:7,3:5", "/sse?topic=c&from=start&delivery=latest", "/sse?topic=d&from=last:3"],
  );
  node.active[0].begin();
  node.active[0].write(event("subscribed", subscribed(1, "a", "5:8")));
  await settle();
  assert.deepEqual(node.take(), [{ live: { topic: "a", position: "5:8" } }]);
});

test("more topics than a stream takes are read from several", async () => {
  const node = new FakeNode("sse");
  await node.send(...Array.from({ length: 20 }, (_, index) => subscribe(index + 1, `t${index}`)));
  assert.deepEqual(
    node.requests.map(({ path }) => path.match(/topic=/g).length),
    [16, 4],
  );
});

test("refused topic ends alone", async () => {
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"), subscribe(2, "b"));
  const error = { code: "not_allowed", message: "no grant", retry: false };
  node.requests[0].respond(403, { error });
  await settle();
  assert.deepEqual(
    node.requests.slice(1).map(({ path }) => path),
    ["/sse?topic=a&from=now", "/sse?topic=b&from=now"],
  );
  node.requests[1].begin();
  node.requests[2].respond(403, { error });
  await settle();
  assert.deepEqual(node.take(), [{ id: 2, error }]);

  await node.send(subscribe(3, "c"), subscribe(4, "d"));
  const stream = node.active.at(-1);
  stream.begin();
  stream.write(event("error", { id: 3, error }));
  await settle();
  assert.deepEqual(node.take(), [{ id: 4, error }]);
  assert.equal(node.active.at(-1).path, "/sse?topic=a&topic=c&from=now");
  assert.deepEqual(node.closes, []);
});

test("topic that was live and cannot be served now ends the connection, which resumes it", async () => {
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"));
  node.requests[0].begin();
  node.requests[0].write(event("subscribed", subscribed(1, "a", "5:7")));
  await settle();
  await node.send(subscribe(2, "b"));
  node.active[0].begin();
  node.active[0].write(event("error", { id: 1, error: { code: "unavailable", message: "no owner", retry: true } }));
  await settle();
  assert.deepEqual(node.closes, [[undefined, "no owner"]]);
});

test("topic that was live and is no longer granted ends with its error", async () => {
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"));
  node.requests[0].begin();
  node.requests[0].write(event("subscribed", subscribed(1, "a", "5:7")));
  await settle();
  await node.send({ id: 2, unsubscribe: { topic: "$" } });
  node.take();
  const error = { code: "not_allowed", message: "no grant", retry: false };
  node.active[0].respond(403, { error });
  await settle();
  assert.deepEqual(node.take(), [{ id: undefined, error }, { unsubscribed: { topic: "a" } }]);
});

test("token is sent with each request, and a refused or expired one ends the connection", async () => {
  for (const [status, code, expected] of [
    [401, "not_authenticated", 4401],
    [401, "token_expired", 4402],
    [503, "overloaded", 4503],
  ]) {
    const node = new FakeNode("sse");
    await node.send({ id: 1, authenticate: { token: "t1" } }, subscribe(2, "a"), subscribe(3, "b"));
    assert.deepEqual(node.take(), [{ id: 1, authenticated: {} }]);
    assert.equal(node.requests[0].headers.authorization, "Bearer t1");
    node.requests[0].respond(status, { error: { code, message: "because", retry: status === 503 } });
    await settle();
    assert.deepEqual(node.closes, [[expected, "because"]]);
    assert.equal(node.requests.length, 1);
  }
});

test("node that ends a stream says how the connection continues", async () => {
  const cases = [
    [event("expired", { error: { code: "token_expired", message: "expired", retry: false } }), [4402, "expired"]],
    [event("error", { close: { code: 4403, reason: "revoked" } }), [4403, "revoked"]],
    [event("error", { error: { code: "unavailable", message: "no owner", retry: true } }), [undefined, "no owner"]],
  ];
  for (const [text, expected] of cases) {
    const node = new FakeNode("sse");
    await node.send(subscribe(1, "a"));
    node.requests[0].begin();
    node.requests[0].write(text);
    await settle();
    assert.deepEqual(node.closes, [expected]);
  }
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"));
  node.requests[0].begin();
  node.requests[0].write(event("rotate", { goaway: { after_ms: 0, reason: "rotation" } }));
  node.requests[0].stream.close();
  await settle();
  assert.deepEqual(node.take(), [{ goaway: { after_ms: 0, reason: "rotation" } }]);
  assert.deepEqual(node.closes, [[undefined, "the stream ended"]]);
});

test("proxy that holds events back ends the connection without a frame", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const node = new FakeNode("sse");
  node.connection.send(subscribe(1, "a"));
  await Promise.resolve();
  context.mock.timers.tick(5_000);
  assert.deepEqual(node.closes, [[undefined, "no event in time"]]);
  assert.deepEqual([node.frames, node.remembered], [[], []]);
});

test("transport is remembered once it brings frames", async () => {
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"));
  assert.deepEqual(node.remembered, []);
  node.requests[0].begin();
  node.requests[0].write(":\n");
  await settle();
  assert.deepEqual(node.frames, [":"]);
  assert.equal(node.remembered[0][0], "sse");
  assert.ok(node.remembered[0][1] > Date.now());
});

test("probe begins the streams again", async () => {
  const node = new FakeNode("sse");
  await node.send(subscribe(1, "a"));
  await node.send({ id: 2, unsubscribe: { topic: "$" } });
  assert.deepEqual(
    node.requests.map(({ isAborted }) => isAborted),
    [true, false],
  );
  await node.send({ id: 3, unsubscribe: { topic: "a" } });
  assert.equal(node.active.length, 0);
});

test("publish is a request with its key, and its response is the reply", async () => {
  const node = new FakeNode("sse");
  const publishes = [
    [{ data: { a: 1 } }, "application/json", '{"a":1}'],
    [{ data: "goal" }, "text/plain", "goal"],
    [{ data: "x", content_type: "application/json" }, "application/json", '"x"'],
    [{ data: "AQ==", encoding: "base64" }, "application/octet-stream", Uint8Array.of(1)],
    [{ data: "AQ==", encoding: "base64", content_type: "image/png" }, "image/png", Uint8Array.of(1)],
  ];
  for (const [index, [members, contentType, body]] of publishes.entries()) {
    await node.send({ id: index + 1, publish: { topic: "a/b", key: "k1", ...members } });
    const { method, path, headers, body: sent, respond } = node.requests[index];
    assert.deepEqual([method, path, sent], ["POST", "/topics/a/b", body]);
    assert.deepEqual(headers, { "content-type": contentType, "idempotency-key": "k1" });
    respond(200, { position: "5:1", durability: "replicated" });
    await settle();
    assert.deepEqual(node.take(), [{ id: index + 1, published: { position: "5:1", durability: "replicated" } }]);
  }
  await node.send({ id: 7, publish: { topic: "a", key: "k2", data: 1 } });
  node.requests.at(-1).respond(403, { error: { code: "not_allowed", message: "no", retry: false } });
  await settle();
  assert.deepEqual(node.take(), [{ id: 7, error: { code: "not_allowed", message: "no", retry: false } }]);
  await node.send({ id: 8, publish: { topic: "a", key: "k3", data: 1 } });
  node.requests.at(-1).reject(new TypeError("network"));
  await settle();
  assert.deepEqual(node.take(), [{ id: 8, error: { code: "unknown", message: "TypeError: network", retry: true } }]);
});

const page = (topic, ...positions) => ({ messages: positions.map((position) => message(topic, position)) });

test("long polls continue from page to page", async () => {
  const node = new FakeNode("long-poll");
  await node.send(subscribe(1, "a/b", { position: "5:1" }));
  assert.equal(node.requests[0].path, "/topics/a/b?after=5:1&limit=100");
  node.requests[0].respond(200, page("a/b", "5:2", "5:3"), { "pushonce-position": "5:3" });
  await settle();
  assert.deepEqual(node.take(), [
    { id: 1, subscribed: { topic: "a/b", position: "5:3", recovered: true, delivery: "all" } },
    message("a/b", "5:2"),
    message("a/b", "5:3"),
  ]);
  assert.equal(node.requests[1].path, "/topics/a/b?after=5:3&limit=100&live=long-poll");
  node.requests[1].respond(204, undefined, { "pushonce-position": "5:3" });
  await settle();
  node.requests[2].respond(200, page("a/b", "5:4"), { "pushonce-position": "5:4" });
  await settle();
  assert.deepEqual(node.take(), [message("a/b", "5:4")]);
  await node.send({ id: 2, unsubscribe: { topic: "a/b" } });
  assert.equal(node.active.filter((request) => request === node.requests[3]).length, 0);
});

test("long poll begins where it is asked to", async () => {
  const cases = [
    ["now", "last=1", [], "5:9"],
    ["start", "after=0:0&limit=100", ["5:9"], "5:9"],
    [{ last: 3 }, "last=3", ["5:9"], "5:9"],
  ];
  for (const [from, query, expected, position] of cases) {
    const node = new FakeNode("long-poll");
    await node.send(subscribe(1, "a", from));
    assert.equal(node.requests[0].path, `/topics/a?${query}`);
    const body = page("a", "5:9");
    node.requests[0].respond(200, query.startsWith("last") ? body.messages : body, { "pushonce-position": position });
    await settle();
    const [reply, ...messages] = node.take();
    assert.equal(reply.subscribed.position, "5:9");
    assert.deepEqual(
      messages.map((frame) => frame.message.position),
      expected,
    );
    assert.match(node.requests[1].path, /after=5:9/);
  }
});

test("history that has moved on is a gap of a long poll", async () => {
  for (const [to, reason] of [
    ["5:8", "expired"],
    ["6:0", "epoch"],
  ]) {
    const node = new FakeNode("long-poll");
    await node.send(subscribe(1, "a", { position: "5:1" }));
    node.requests[0].respond(410, { error: { code: "gone", message: "", retry: false } }, { "pushonce-position": to });
    await settle();
    assert.deepEqual(node.take()[1], { gap: { topic: "a", from: "5:2", to, reason } });
    assert.match(node.requests[1].path, new RegExp(`after=${to}`));
  }
});

test("history that begins later is no gap of a long poll from the start", async () => {
  const node = new FakeNode("long-poll");
  await node.send(subscribe(1, "a", "start"));
  node.requests[0].respond(410, { error: { code: "gone", message: "", retry: false } }, { "pushonce-position": "5:8" });
  await settle();
  assert.equal(node.take().length, 1);
  assert.match(node.requests[1].path, /after=5:8/);
});

test("long poll of a newest-only topic delivers the newest message of a page", async () => {
  const node = new FakeNode("long-poll");
  await node.send(subscribe(1, "a", { position: "5:1" }, "latest"));
  node.requests[0].respond(200, page("a", "5:2", "5:3"), { "pushonce-position": "5:3" });
  await settle();
  assert.deepEqual(node.take().slice(1), [message("a", "5:3")]);
});

test("refused long poll ends its topic, and a failed one the connection", async () => {
  const node = new FakeNode("long-poll");
  await node.send(subscribe(1, "a"), subscribe(2, "b"));
  const error = { code: "not_allowed", message: "no grant", retry: false };
  node.requests[0].respond(403, { error });
  await settle();
  assert.deepEqual(node.take(), [{ id: 1, error }]);
  node.requests[1].reject(new TypeError("network"));
  await settle();
  assert.deepEqual(node.closes, [[undefined, "TypeError: network"]]);
});
