// One node of three is killed while publishers work: nothing is lost, stored twice or out of order.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as outbox from "../outbox.js";
import { Publisher } from "../publisher.js";
import { relay } from "../relay.js";
import { Subscriber } from "../subscriber.js";
import { Cluster, PATIENCE, Testbed, history, inTime, newest, offset, server, waitUntil } from "./cluster.js";

const COUNT = 90;

test("publishers and subscribers continue at another node when theirs is killed", async (context) => {
  const testbed = await Testbed.create(context);
  const nodes = await testbed.cluster();
  const cluster = new Cluster(nodes.map(server));
  const database = outbox.connect(testbed.path("outbox.db"));
  const stop = new AbortController();
  context.after(() => stop.abort());
  const publisher = new Publisher(cluster, PATIENCE);
  const relayed = relay(database, publisher, stop.signal);
  const received = new Subscriber(cluster, "direct", { start: true }).events();

  for (let number = 0; number < COUNT; number++) {
    if (number === COUNT / 3) await nodes[0].kill();
    outbox.transaction(database, () => outbox.save(database, "outbox", number));
    // One after the other, since only then they have an order.
    const outcome = await publisher.publish("direct", String(number), { key: `key-${number}` });
    assert.equal(outcome.kind, "acknowledged");
    const { value } = await inTime(`message ${number}`, received.next());
    assert.equal(value.message.payload.toString(), String(number));
  }
  await received.return();
  await waitUntil("the outbox is empty", () => !outbox.oldest(database));
  stop.abort();
  await relayed;
  publisher.close();

  const others = new Cluster(nodes.slice(1).map(server));
  for (const topic of ["direct", "outbox"]) {
    const numbers = (await history(others, topic, COUNT)).map((message) => Number(message.payload.toString()));
    assert.deepEqual(numbers, Array.from({ length: COUNT }, (_, number) => number), topic);
    assert.equal(offset(await newest(others, topic)), offset((await history(others, topic, COUNT)).at(-1).position));
  }
});
