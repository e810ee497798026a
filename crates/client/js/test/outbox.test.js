import assert from "node:assert/strict";
import { test } from "node:test";

import { Harness } from "./session-harness.js";

const publish = (h, number, timeout = 8_000) =>
  h.run("publish", number, { topic: "chat/7", key: `k${number}`, data: number }, timeout);
const requests = (h) => h.sent.filter((frame) => frame.publish);
const results = (h) =>
  h.of("settle").map(({ publish: number, result }) => [number, result.outcome ?? result.position, result.code]);
const published = (h, index, position = "5:1") =>
  h.frame({ id: requests(h)[index].id, published: { position, durability: "replicated" } });
const failed = (h, index, error) => h.frame({ id: requests(h)[index].id, error: { message: "", ...error } });

test("acknowledged publish has its position and durability", () => {
  const h = publish(new Harness().open(), 1);
  assert.deepEqual(requests(h), [{ id: 1, publish: { topic: "chat/7", key: "k1", data: 1 } }]);
  published(h, 0);
  assert.deepEqual(h.of("settle"), [{ publish: 1, result: { position: "5:1", durability: "replicated" } }]);
});

test("publish waits for the connection", () => {
  const h = publish(new Harness(), 1);
  assert.deepEqual(requests(h), []);
  h.open();
  assert.equal(requests(h).length, 1);
});

test("publish without a reply is sent again in the next connection with the same key", () => {
  const h = publish(publish(new Harness().open(), 1), 2);
  published(h, 0).run("closed", 1006, "").advance().clear().open();
  assert.deepEqual(
    requests(h).map((frame) => frame.publish.key),
    ["k2"],
  );
  published(h, 0, "5:2");
  assert.deepEqual(results(h), [[2, "5:2", undefined]]);
});

test("rejected publish is not sent again", () => {
  const h = publish(new Harness().open(), 1);
  failed(h, 0, { code: "not_allowed", retry: false }).advance(10_000);
  assert.deepEqual(results(h), [[1, "rejected", "not_allowed"]]);
  assert.equal(requests(h).length, 1);
});

test("publish that may succeed later is sent again after the time that the node asks for", () => {
  const h = publish(new Harness().open(), 1);
  failed(h, 0, { code: "overloaded", retry: true, back_ms: 350 }).advance(349);
  assert.equal(requests(h).length, 1);
  h.advance(1);
  assert.equal(requests(h).length, 2);
  failed(h, 1, { code: "unavailable", retry: true }).advance(10);
  published(h, 2);
  assert.deepEqual(results(h), [[1, "5:1", undefined]]);
});

test("outcome is unknown when the time is over after the message was sent, and rejected when it was not", () => {
  const sent = publish(new Harness().open(), 1, 1_000).advance(1_000);
  assert.deepEqual(results(sent), [[1, "unknown", "unavailable"]]);
  const unsent = publish(new Harness(), 1, 1_000).advance(1_000);
  assert.deepEqual(results(unsent), [[1, "rejected", "unavailable"]]);
  const lost = publish(new Harness().open(), 1, 1_000).run("closed", 1006, "").advance(1_000);
  assert.deepEqual(results(lost), [[1, "unknown", "unavailable"]]);
});

test("outcome is unknown when a retry of a message that may be stored is rejected", () => {
  const h = publish(new Harness().open(), 1).run("closed", 1006, "").advance().open();
  failed(h, 1, { code: "not_allowed", retry: false });
  assert.deepEqual(results(h), [[1, "unknown", "not_allowed"]]);
});

test("outcome that the node does not know is asked for again with the same key", () => {
  const h = publish(new Harness().open(), 1);
  failed(h, 0, { code: "unknown", retry: true }).advance(10);
  assert.equal(requests(h)[1].publish.key, "k1");
  published(h, 1);
  assert.deepEqual(results(h), [[1, "5:1", undefined]]);
});

test("reply without a durability is no acknowledgement", () => {
  const h = publish(new Harness().open(), 1);
  h.frame({ id: 1, published: { position: "5:1" } });
  assert.deepEqual(results(h), [[1, "unknown", "unknown"]]);
});

test("at most 32 publishes are without a reply, and all are sent in order", () => {
  const h = new Harness().open();
  for (let number = 1; number <= 40; number += 1) publish(h, number);
  assert.equal(requests(h).length, 32);
  published(h, 0);
  assert.deepEqual(
    requests(h).map((frame) => frame.publish.data),
    Array.from({ length: 33 }, (_, index) => index + 1),
  );
});

test("number of waiting publishes is bounded", () => {
  const h = new Harness();
  for (let number = 1; number <= 1_001; number += 1) publish(h, number);
  assert.deepEqual(results(h), [[1_001, "rejected", "overloaded"]]);
});

test("closed client fails what has no outcome", () => {
  const h = publish(publish(new Harness().open(), 1).run("closed", 1006, ""), 2).run("close");
  assert.deepEqual(results(h), [
    [1, "unknown", "closed"],
    [2, "rejected", "closed"],
  ]);
});
