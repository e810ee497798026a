// Three nodes: a node that is killed, one that drains.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect, once, range, received, record } from "./client.js";
import { inTime, Testbed, waitUntil } from "./nodes.js";

/** Publishes one number after the other until `stop`; each exactly once. */
function publishNumbers(client, topic) {
  let isStopped = false;
  let count = 0;
  const done = (async () => {
    while (!isStopped) {
      await client.publish(topic, count + 1, { timeout: 60_000 });
      count += 1;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return count;
  })();
  // Where a test fails before it stops the publisher, the failure is that of the test.
  done.catch(() => {});
  return {
    get count() {
      return count;
    },
    stop() {
      isStopped = true;
      return inTime("the last publish", done);
    },
  };
}

test("node of a subscriber and a publisher is killed, and not one message is missing or repeated", async (context) => {
  const testbed = await Testbed.create(context);
  const nodes = await testbed.cluster();
  const urls = nodes.map(({ url }) => url);
  const client = connect(context, urls);
  const recorded = record(client.subscribe("match/final/score", { from: "start" }));
  const publisher = connect(context, urls);
  const publishes = publishNumbers(publisher, "match/final/score");
  await received(recorded, 50);

  const disconnected = once(client, "disconnected");
  const node = nodes.find(({ url }) => url === client.url);
  await node.kill();
  const { url, retryIn } = await disconnected;
  assert.equal(url, node.url);
  assert.ok(retryIn <= 100);
  const before = publishes.count;
  await waitUntil("publishing goes on", () => publishes.count >= before + 50);
  assert.notEqual(client.url, node.url);

  const count = await publishes.stop();
  await received(recorded, count);
  assert.deepEqual(recorded.data, range(1, count));
  assert.ok(!recorded.events.some(([name]) => name === "gap" || name === "error"), JSON.stringify(recorded.events));
});

test("node that drains sends its clients to the others, and not one message is missing or repeated", async (context) => {
  const testbed = await Testbed.create(context);
  const nodes = await testbed.cluster("--shutdown-grace", "2s");
  const client = connect(
    context,
    nodes.map(({ url }) => url),
  );
  const recorded = record(client.subscribe("match/final/score", { from: "start" }));
  const survivor = nodes.find(({ url }) => url !== client.url);
  const publishes = publishNumbers(connect(context, survivor.url), "match/final/score");
  await received(recorded, 20);

  const drained = nodes.find(({ url }) => url === client.url);
  const disconnected = once(client, "disconnected");
  const stopped = drained.stop();
  const { reason } = await disconnected;
  assert.match(reason, /drain|shut|stop|leav/i);
  await once(client, "connected");
  assert.notEqual(client.url, drained.url);
  const before = publishes.count;
  await waitUntil("publishing goes on", () => publishes.count >= before + 20);
  await inTime("the end of the node", stopped);

  const count = await publishes.stop();
  await received(recorded, count);
  assert.deepEqual(recorded.data, range(1, count));
  assert.ok(!recorded.events.some(([name]) => name === "gap" || name === "error"), JSON.stringify(recorded.events));
});
