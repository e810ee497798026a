// The transports over HTTP against real nodes.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { connect, once, range, received, record } from "./client.js";
import { inTime, Testbed, waitUntil } from "./nodes.js";
import { TcpProxy } from "./proxy.js";

const TRANSPORTS = ["sse", "long-poll"];

/** @type {Testbed} */
let testbed;
let node;
before(async (context) => {
  testbed = await Testbed.create(context);
  node = await testbed.node();
});

for (const transport of TRANSPORTS) {
  const open = (context, url, options) => connect(context, url, { transports: [transport], ...options });

  test(`${transport}: topics are received in order from where they are asked for, and published`, async (context) => {
    const client = open(context, node.url);
    const topic = `${transport}/order`;
    for (const value of range(1, 5)) await client.publish(topic, { value });
    const cases = [
      ["start", range(1, 30)],
      [{ last: 2 }, range(4, 30)],
      ["now", range(6, 30)],
    ];
    const recorded = [];
    for (const [from] of cases) {
      const subscription = open(context, node.url).subscribe(topic, { from });
      recorded.push(record(subscription));
      await inTime("the subscription", subscription.subscribed);
    }
    for (const value of range(6, 30)) await client.publish(topic, { value });
    for (const [index, [, expected]] of cases.entries()) {
      await received(recorded[index], expected.length);
      assert.deepEqual(
        recorded[index].data.map(({ value }) => value),
        expected,
      );
    }
  });

  test(`${transport}: payloads of every kind are the same as over WebSocket`, async (context) => {
    const topic = `${transport}/kinds`;
    const values = ["two\r\nlines\n\n: ü", "", { a: "\n" }, 7, null, Uint8Array.of(0, 10, 13, 255)];
    const client = open(context, node.url);
    for (const value of values) await client.publish(topic, value);
    const [over, websocket] = [client, connect(context, node.url)].map((each) =>
      each.subscribe(topic, { from: "start" }),
    );
    const messages = await Promise.all([over, websocket].map((subscription) => take(subscription, values.length)));
    assert.deepEqual(
      messages[0].map(({ data }) => data),
      values,
    );
    assert.deepEqual(messages[0], messages[1]);
  });

  test(`${transport}: subscriptions that come and go leave the others whole`, async (context) => {
    const client = open(context, node.url);
    const publisher = connect(context, node.url);
    const topics = range(1, 5).map((number) => `${transport}/many/${number}`);
    const recorded = [];
    for (const [index, topic] of topics.entries()) {
      const subscription = client.subscribe(topic);
      recorded.push(record(subscription));
      await inTime("the subscription", subscription.subscribed);
      if (index === 2) client.subscribe(`${transport}/short`).unsubscribe();
      for (const value of range(1, 20))
        await Promise.all(topics.slice(0, index + 1).map((each) => publisher.publish(each, value)));
    }
    for (const [index, each] of recorded.entries()) {
      await received(each, 20 * (5 - index));
      assert.deepEqual(each.data, Array.from({ length: 5 - index }, () => range(1, 20)).flat());
      assert.deepEqual(each.events, []);
    }
  });

  test(`${transport}: refused topic ends alone`, async (context) => {
    const client = open(context, node.url);
    const fine = client.subscribe(`${transport}/fine`);
    await assert.rejects(inTime("the refusal", client.subscribe("$system").subscribed), { code: "not_allowed" });
    const future = client.subscribe(`${transport}/future`, { from: { position: "99:1" } });
    await assert.rejects(inTime("the refusal", future.subscribed), { code: "future_position" });
    const recorded = record(fine);
    await inTime("the subscription", fine.subscribed);
    await client.publish(`${transport}/fine`, 1);
    await received(recorded, 1);
  });

  test(`${transport}: connections that are cut lose and repeat nothing`, async (context) => {
    const proxy = await TcpProxy.start(node.address);
    context.after(() => proxy.stop());
    const client = open(context, proxy.url);
    const topic = `${transport}/cut`;
    let disconnections = 0;
    client.on("disconnected", () => (disconnections += 1));
    const recorded = record(client.subscribe(topic, { from: "start" }));
    const publisher = connect(context, node.url);
    for (const value of range(1, 100)) {
      await publisher.publish(topic, value);
      if (value % 20 === 0) {
        await received(recorded, value - 10);
        // Between two requests, the client has no connection that could break.
        proxy.cut();
      }
    }
    await received(recorded, 100);
    assert.deepEqual(recorded.data, range(1, 100));
    assert.ok(disconnections > 0);
  });

  test(`${transport}: history that has moved on is a gap`, async (context) => {
    await testbed.command(["namespace", "set", `gap-${transport}`, "--history-count", "100", "--server", node.grpc]);
    const topic = `gap-${transport}/topic`;
    const publisher = connect(context, node.url);
    const first = await publisher.publish(topic, 1);
    for (const value of range(2, 400)) publisher.publish(topic, value);
    await publisher.publish(topic, 401);
    const recorded = record(open(context, node.url).subscribe(topic, { from: { position: first.position } }));
    await received(recorded, 100);
    const [[name, { from, to, reason }]] = recorded.events;
    const offset = (position) => Number(position.split(":")[1]);
    assert.deepEqual([name, offset(from), reason], ["gap", 2, "expired"]);
    assert.deepEqual(recorded.data, range(offset(to) + 1, 401));
  });

  test(`${transport}: newest-only delivery gives the newest message`, async (context) => {
    const client = open(context, node.url);
    const topic = `${transport}/latest`;
    const subscription = client.subscribe(topic, { delivery: "latest" });
    const recorded = record(subscription);
    assert.equal((await inTime("the subscription", subscription.subscribed)).delivery, "latest");
    const publisher = connect(context, node.url);
    await Promise.all(range(1, 200).map((value) => publisher.publish(topic, value)));
    await waitUntil("the newest message is received", () => recorded.data.includes(200));
    assert.ok(recorded.data.every((value, index) => index === 0 || value > recorded.data[index - 1]));
    assert.deepEqual(recorded.events, []);
  });

  test(`${transport}: tokens are replaced when they expire, and a refused one ends the client`, async (context) => {
    const guarded = await Testbed.create(context);
    const { flags, mint } = await guarded.issuer();
    const grants = ["--subscribe", "chat/**", "--publish", "chat/**"];
    const guard = await guarded.node(...flags, "--token-grace", "1s");
    const reasons = [];
    const client = open(context, guard.url, {
      token: await mint("--subject", "alice", "--expires-in", "2s", ...grants),
      getToken: ({ reason }) => {
        reasons.push(reason);
        return mint("--subject", "alice", ...grants);
      },
    });
    const recorded = record(client.subscribe("chat/7", { from: "start" }));
    await client.publish("chat/7", 1);
    await waitUntil("the token is replaced", () => reasons.length === 1);
    await client.publish("chat/7", 2, { timeout: 30_000 });
    await received(recorded, 2);
    assert.deepEqual([recorded.data, reasons], [[1, 2], ["expired"]]);

    const refused = open(context, guard.url, { token: "x.y.z" });
    await assert.rejects(inTime("the refusal", refused.subscribe("chat/7").subscribed), { code: "not_authenticated" });
  });
}

test("client whose WebSockets do not pass falls back to event streams, and then to long polls", async (context) => {
  class BlockedWebSocket {
    constructor() {
      setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 5);
    }
    close() {}
  }
  const client = connect(context, node.url, { WebSocket: BlockedWebSocket });
  const recorded = record(client.subscribe("fallback/sse"));
  assert.equal((await once(client, "connected")).transport, "sse");
  await waitUntil("the message is received", async () => {
    await client.publish("fallback/sse", 1);
    return recorded.data.length > 0;
  });

  // A proxy that holds a response back until it ends.
  const buffering = async (url, init) => {
    const response = await fetch(url, init);
    if (!String(url).includes("/sse?")) return response;
    return new Response(await response.arrayBuffer(), response);
  };
  const held = connect(context, node.url, { WebSocket: BlockedWebSocket, fetch: buffering });
  const polled = record(held.subscribe("fallback/poll", { from: "start" }));
  await client.publish("fallback/poll", 1);
  await received(polled, 1);
});

/** The first messages of a subscription. */
async function take(subscription, count) {
  const messages = [];
  for await (const message of subscription) {
    messages.push(message);
    if (messages.length === count) break;
  }
  return messages;
}
