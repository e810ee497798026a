import assert from "node:assert/strict";
import { test } from "node:test";

import { PushonceError } from "../src/errors.js";
import { Subscription } from "../src/subscription.js";

const message = (offset) => ({ type: "message", value: { topic: "t", position: `5:${offset}`, data: offset } });

function create() {
  const calls = [];
  const control = {
    setPaused: (isPaused) => calls.push(isPaused ? "pause" : "resume"),
    unsubscribe: () => calls.push("unsubscribe"),
  };
  return { calls, subscription: new Subscription("t", control) };
}

async function take(iterator, count) {
  const taken = [];
  while (taken.length < count) taken.push((await iterator.next()).value.data);
  return taken;
}

test("loop receives messages in order, also those from before it began", async () => {
  const { subscription, calls } = create();
  for (const offset of [1, 2]) subscription.deliver(message(offset));
  const iterator = subscription[Symbol.asyncIterator]();
  assert.deepEqual(await take(iterator, 2), [1, 2]);
  const next = iterator.next();
  subscription.deliver(message(3));
  assert.equal((await next).value.data, 3);
  assert.equal(subscription.position, "5:3");
  await iterator.return();
  assert.deepEqual(calls, ["unsubscribe"]);
  assert.deepEqual(await iterator.next(), { done: true, value: undefined });
});

test("listener receives messages without a queue, also those from before it was added", async () => {
  const { subscription, calls } = create();
  const received = [];
  subscription.deliver(message(0));
  const remove = subscription.on("message", ({ data }) => received.push(data));
  await Promise.resolve();
  for (let offset = 1; offset < 1_000; offset += 1) subscription.deliver(message(offset));
  assert.deepEqual(
    received,
    Array.from({ length: 1_000 }, (_, index) => index),
  );
  assert.deepEqual(calls, []);
  remove();
  subscription.deliver(message(1_000));
  assert.equal(received.length, 1_000);
});

test("slow loop pauses the subscription at 256 events and resumes it at half of them", async () => {
  const { subscription, calls } = create();
  for (let offset = 0; offset < 255; offset += 1) subscription.deliver(message(offset));
  assert.deepEqual(calls, []);
  subscription.deliver(message(255));
  assert.deepEqual(calls, ["pause"]);
  const iterator = subscription[Symbol.asyncIterator]();
  await take(iterator, 127);
  assert.deepEqual(calls, ["pause"]);
  await take(iterator, 1);
  assert.deepEqual(calls, ["pause", "resume"]);
});

test("slow loop over a newest-only topic receives the newest message and holds one", async () => {
  const { subscription, calls } = create();
  for (let offset = 0; offset < 10_000; offset += 1) subscription.deliver(message(offset), true);
  assert.deepEqual(await take(subscription[Symbol.asyncIterator](), 1), [9_999]);
  assert.deepEqual(calls, []);
});

test("events come in the order of the messages around them", async () => {
  const { subscription } = create();
  const seen = [];
  subscription.on("gap", ({ to }) => seen.push(`gap ${to}`));
  subscription.deliver(message(1));
  subscription.deliver({ type: "gap", value: { topic: "t", from: "5:2", to: "5:4", reason: "expired" } });
  subscription.deliver(message(5));
  const iterator = subscription[Symbol.asyncIterator]();
  for (let count = 0; count < 2; count += 1) seen.push((await iterator.next()).value.data);
  assert.deepEqual(seen, [1, "gap 5:4", 5]);
});

test("refused subscription rejects `subscribed`, the loop and the event", async () => {
  const { subscription } = create();
  const errors = [];
  subscription.on("error", (error) => errors.push(error.code));
  subscription.deliver(message(1));
  subscription.finish(new PushonceError("not_allowed", "no grant"));
  const iterator = subscription[Symbol.asyncIterator]();
  assert.equal((await iterator.next()).value.data, 1);
  await assert.rejects(iterator.next(), { code: "not_allowed" });
  await assert.rejects(iterator.next(), { code: "not_allowed" });
  await assert.rejects(subscription.subscribed, { code: "not_allowed" });
  assert.deepEqual(errors, ["not_allowed"]);
});

test("`subscribed` resolves with the position when the topic is live", async () => {
  const { subscription } = create();
  const value = { topic: "t", position: "5:7", recovered: true, delivery: "all" };
  subscription.deliver({ type: "subscribed", value });
  assert.deepEqual(await subscription.subscribed, value);
});

test("unsubscribe ends waiting loops and drops what waits", async () => {
  const { subscription, calls } = create();
  const next = subscription[Symbol.asyncIterator]().next();
  subscription.unsubscribe();
  assert.deepEqual(await next, { done: true, value: undefined });
  subscription.deliver(message(1));
  assert.deepEqual(await subscription[Symbol.asyncIterator]().next(), { done: true, value: undefined });
  assert.deepEqual(calls, ["unsubscribe"]);
  await assert.rejects(subscription.subscribed, { code: "closed" });
});

test("error of a listener is reported and does not stop the other listeners", async () => {
  const { subscription } = create();
  const reported = new Promise((resolve) => process.setUncaughtExceptionCaptureCallback(resolve));
  const seen = [];
  subscription.on("message", () => {
    throw new Error("listener failed");
  });
  subscription.on("message", ({ data }) => seen.push(data));
  subscription.deliver(message(1));
  assert.equal((await reported).message, "listener failed");
  process.setUncaughtExceptionCaptureCallback(null);
  assert.deepEqual(seen, [1]);
});
