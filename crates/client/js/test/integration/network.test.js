// Networks that break: outcomes of publishes, liveness, pages that wake.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { connect, once, range, received, record } from "./client.js";
import { inTime, Testbed, waitUntil } from "./nodes.js";
import { TcpProxy } from "./proxy.js";

/** @type {Testbed} */
let testbed;
let node;
before(async (context) => {
  testbed = await Testbed.create(context);
  node = await testbed.node();
});

async function startProxy(context) {
  const proxy = await TcpProxy.start(node.address);
  context.after(() => proxy.stop());
  return proxy;
}

test("subscription survives connections that are cut again and again", async (context) => {
  const proxy = await startProxy(context);
  const client = connect(context, proxy.url);
  const recorded = record(client.subscribe("net/cut", { from: "start" }));
  const publisher = connect(context, node.url);
  for (const value of range(1, 200)) {
    await publisher.publish("net/cut", value);
    if (value % 20 === 0) {
      await waitUntil("the client is connected", () => client.state === "open");
      const disconnected = once(client, "disconnected");
      proxy.cut();
      await disconnected;
    }
  }
  await received(recorded, 200);
  assert.deepEqual(recorded.data, range(1, 200));
});

test("publish whose reply is lost is stored once and acknowledged with its first position", async (context) => {
  const proxy = await startProxy(context);
  const client = connect(context, proxy.url);
  await once(client, "connected");
  const recorded = record(connect(context, node.url).subscribe("net/once", { from: "start" }));
  proxy.isMuted = true;
  const publish = client.publish("net/once", "goal", { timeout: 60_000 });
  await received(recorded, 1);
  proxy.isMuted = false;
  proxy.cut();
  const { position } = await inTime("the acknowledgement", publish);
  assert.equal(position, recorded.positions[0]);
  await client.publish("net/once", "end");
  await received(recorded, 2);
  assert.deepEqual(recorded.data, ["goal", "end"]);
});

test("outcome of a publish without a reply in time is unknown, and its key makes a later retry safe", async (context) => {
  const proxy = await startProxy(context);
  const client = connect(context, proxy.url);
  await once(client, "connected");
  const recorded = record(connect(context, node.url).subscribe("net/unknown", { from: "start" }));
  proxy.isMuted = true;
  const error = await client.publish("net/unknown", 1, { timeout: 1_000 }).catch((reason) => reason);
  assert.deepEqual([error.name, error.outcome, error.retry], ["PublishError", "unknown", true]);
  await received(recorded, 1);
  proxy.isMuted = false;
  proxy.cut();
  const { position } = await client.publish("net/unknown", 1, { key: error.key });
  assert.equal(position, recorded.positions[0]);
  await assert.rejects(client.publish("net/unknown", 2, { key: error.key }), {
    outcome: "rejected",
    code: "key_reused",
  });
});

test("publish that was never sent is rejected when its time is over", async (context) => {
  const client = connect(context, "http://127.0.0.1:1");
  await assert.rejects(client.publish("net/down", 1, { timeout: 500 }), { outcome: "rejected", retry: true });
});

test("client that starts before its node is served once the node is there", async (context) => {
  const proxy = await TcpProxy.start(node.address);
  const { url } = proxy;
  await proxy.stop();
  const client = connect(context, url);
  for (let attempt = 0; attempt < 5; attempt += 1) await once(client, "disconnected");
  assert.ok(["waiting", "opening"].includes(client.state), client.state);
  const again = await TcpProxy.start(node.address, Number(new URL(url).port));
  context.after(() => again.stop());
  await inTime("the subscription", client.subscribe("net/late").subscribed);
});

test("page that wakes on a dead connection is level at once", async (context) => {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden: false });
  Object.assign(globalThis, { window, document });
  context.after(() => {
    delete globalThis.window;
    delete globalThis.document;
  });
  const proxy = await startProxy(context);
  const client = connect(context, proxy.url);
  const subscription = client.subscribe("net/wake");
  const recorded = record(subscription);
  await inTime("the subscription", subscription.subscribed);
  proxy.freeze();
  const publisher = connect(context, node.url);
  for (const value of range(1, 10)) await publisher.publish("net/wake", value);
  await new Promise((resolve) => setTimeout(resolve, 1_500)); // Longer than a fresh frame is proof of life.
  assert.deepEqual(recorded.data, []);
  const disconnected = once(client, "disconnected");
  document.dispatchEvent(new Event("visibilitychange"));
  assert.equal((await disconnected).reason, "the node is silent");
  await received(recorded, 10);
  assert.deepEqual(recorded.data, range(1, 10));
  await waitUntil("the client is connected", () => client.state === "open");
});
