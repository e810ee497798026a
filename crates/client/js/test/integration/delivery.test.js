// One node: history, hand-over, deliveries, flow control, gaps.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { connect, range, received, record } from "./client.js";
import { inTime, Testbed } from "./nodes.js";

/** @type {Testbed} */
let testbed;
let node;
before(async (context) => {
  testbed = await Testbed.create(context);
  node = await testbed.node();
});

test("loop receives the published messages in order", async (context) => {
  const client = connect(context, node.url);
  const subscription = client.subscribe("chat/loop");
  const { position, recovered, delivery } = await inTime("the subscription", subscription.subscribed);
  assert.deepEqual({ position, recovered, delivery }, { position: "0:0", recovered: true, delivery: "all" });
  const values = ["text", { goals: [1, 2] }, 7, null, Uint8Array.of(0, 255)];
  const acknowledgements = [];
  for (const value of values) acknowledgements.push(await client.publish("chat/loop", value));
  const messages = [];
  for await (const message of subscription) {
    messages.push(message);
    if (messages.length === values.length) break;
  }
  assert.deepEqual(
    messages.map(({ data }) => data),
    values,
  );
  assert.deepEqual(
    messages.map((message) => message.position),
    acknowledgements.map((ack) => ack.position),
  );
  assert.ok(acknowledgements.every(({ durability }) => durability === "replicated"));
  assert.ok(messages.every(({ topic, time, key }) => topic === "chat/loop" && time > 0 && key));
});

test("subscription begins where it is asked to", async (context) => {
  const client = connect(context, node.url);
  const positions = [];
  for (const value of range(1, 5)) positions.push((await client.publish("chat/start", value)).position);
  const cases = [
    ["start", [1, 2, 3, 4, 5, 6]],
    [{ last: 2 }, [4, 5, 6]],
    [{ position: positions[2] }, [4, 5, 6]],
    ["now", [6]],
  ];
  const recorded = [];
  for (const [from] of cases) {
    const subscription = connect(context, node.url).subscribe("chat/start", { from });
    recorded.push(record(subscription));
    await inTime("the subscription", subscription.subscribed);
  }
  await client.publish("chat/start", 6);
  for (const [index, [, expected]] of cases.entries()) {
    await received(recorded[index], expected.length);
    assert.deepEqual(recorded[index].data, expected);
  }
});

test("nothing is lost or repeated between a snapshot and the subscription from its position", async (context) => {
  const client = connect(context, node.url);
  assert.deepEqual(await client.snapshot("chat/page"), { data: undefined, position: "0:0" });
  await client.publish("chat/page", { score: 1 });
  const { data, position, contentType } = await client.snapshot("chat/page");
  assert.deepEqual([data, contentType], [{ score: 1 }, "application/json"]);
  for (const score of [2, 3]) await client.publish("chat/page", { score });
  const recorded = record(client.subscribe("chat/page", { from: { position } }));
  await received(recorded, 2);
  assert.deepEqual(recorded.data, [{ score: 2 }, { score: 3 }]);
});

test("messages that come as deltas are the same", async (context) => {
  const client = connect(context, node.url);
  const subscription = client.subscribe("chat/delta", { delta: true });
  const recorded = record(subscription);
  await inTime("the subscription", subscription.subscribed);
  const values = range(1, 20).map((number) => ({
    number,
    padding: "the same in every message ".repeat(20),
    tail: `${number}ü`,
  }));
  for (const value of values) await client.publish("chat/delta", value);
  await received(recorded, values.length);
  assert.deepEqual(recorded.data, values);
});

test("slow loop receives every message although the client holds few of them", async (context) => {
  const client = connect(context, node.url);
  const subscription = client.subscribe("chat/slow");
  await inTime("the subscription", subscription.subscribed);
  const data = [];
  const loop = (async () => {
    for await (const message of subscription) {
      data.push(message.data);
      if (data.length === 1) await inTime("every publish", published);
      if (data.length === 900) break;
    }
  })();
  const published = Promise.all(range(1, 900).map((value) => client.publish("chat/slow", value)));
  await inTime("the loop", loop);
  assert.deepEqual(data, range(1, 900));
});

test("slow loop over a newest-only topic receives the newest message", async (context) => {
  const client = connect(context, node.url);
  const subscription = client.subscribe("chat/latest", { delivery: "latest" });
  const { delivery } = await inTime("the subscription", subscription.subscribed);
  assert.equal(delivery, "latest");
  const data = [];
  for await (const message of publishing(subscription, client)) {
    data.push(message.data);
    if (message.data === 300) break;
  }
  assert.ok(data.length <= 30, `${data.length} messages`);
  assert.ok(data.every((value, index) => index === 0 || value > data[index - 1]));
});

/** The messages of a subscription; all are published while the first is handled. */
async function* publishing(subscription, client) {
  await client.publish("chat/latest", 0);
  let isFirst = true;
  for await (const message of subscription) {
    if (isFirst) await Promise.all(range(1, 300).map((value) => client.publish("chat/latest", value)));
    isFirst = false;
    yield message;
  }
}

test("loop that was too slow for the history gets a gap and then the rest", async (context) => {
  await testbed.command(["namespace", "set", "short", "--history-count", "100", "--server", node.grpc]);
  const client = connect(context, node.url);
  const subscription = client.subscribe("short/topic");
  await inTime("the subscription", subscription.subscribed);
  const gaps = [];
  subscription.on("gap", (gap) => gaps.push(gap));
  const data = [];
  const loop = (async () => {
    for await (const message of subscription) {
      data.push(message.data);
      if (data.length === 1) await inTime("every publish", published);
      if (message.data === 900) break;
    }
  })();
  const published = Promise.all(range(1, 900).map((value) => client.publish("short/topic", value)));
  await inTime("the loop", loop);
  const offset = (position) => Number(position.split(":")[1]);
  const missing = gaps.flatMap(({ from, to }) => range(offset(from), offset(to)));
  assert.ok(gaps.length >= 1 && gaps.every(({ reason }) => ["expired", "slow"].includes(reason)), JSON.stringify(gaps));
  assert.deepEqual(
    [...data, ...missing].sort((a, b) => a - b),
    range(1, 900),
  );
});

test("audience counts the sessions", async (context) => {
  const subscription = connect(context, node.url).subscribe("chat/audience", { audience: true });
  const count = new Promise((resolve) =>
    subscription.on("audience", (audience) => audience.count === 2 && resolve(audience)),
  );
  connect(context, node.url).subscribe("chat/audience");
  assert.deepEqual(await inTime("the audience", count), { topic: "chat/audience", count: 2 });
});

test("refused subscription rejects with the code of the node, and the client goes on", async (context) => {
  const client = connect(context, node.url);
  await assert.rejects(client.subscribe("$system").subscribed, { name: "PushonceError", code: "not_allowed" });
  await assert.rejects(client.subscribe("chat//7").subscribed, { code: "bad_topic" });
  await assert.rejects(client.subscribe("chat/future", { from: { position: "99:1" } }).subscribed, {
    code: "future_position",
  });
  await inTime("another subscription", client.subscribe("chat/fine").subscribed);
});

test("topic can be subscribed again after it was unsubscribed, and only once at a time", async (context) => {
  const client = connect(context, node.url);
  const first = client.subscribe("chat/again");
  assert.throws(() => client.subscribe("chat/again"), { code: "already_subscribed" });
  first.unsubscribe();
  const second = client.subscribe("chat/again", { from: "start" });
  const recorded = record(second);
  await client.publish("chat/again", 1);
  await received(recorded, 1);
  assert.deepEqual(recorded.data, [1]);
});
