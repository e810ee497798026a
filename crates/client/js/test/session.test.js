import assert from "node:assert/strict";
import { test } from "node:test";

import { Harness } from "./session-harness.js";

test("subscription resumes after the last delivered message", () => {
  const h = new Harness().open().live("chat/7", "5:2");
  h.message("chat/7", "5:3").message("chat/7", "5:4").clear();
  h.run("closed", 1006, "").advance().open();
  assert.deepEqual(h.sent, [
    {
      id: 1,
      subscribe: {
        topic: "chat/7",
        from: { position: "5:4" },
        delivery: undefined,
        audience: undefined,
        delta: undefined,
      },
    },
  ]);
  h.accept("chat/7", "5:6").message("chat/7", "5:5").message("chat/7", "5:6");
  assert.deepEqual(h.messages("chat/7"), ["5:5", "5:6"]);
});

test("start from now resumes from the position of the first subscription", () => {
  const h = new Harness().open().live("chat/7", "5:2").clear();
  h.run("closed", 1006, "").advance().open();
  assert.deepEqual(h.sent[0].subscribe.from, { position: "5:2" });
});

test("history that was not received yet is requested again", () => {
  const h = new Harness()
    .open()
    .live("chat/7", "5:9", { from: { last: 3 } })
    .clear();
  h.run("closed", 1006, "").advance().open();
  assert.deepEqual(h.sent[0].subscribe.from, { last: 3 });
});

test("repeated messages are dropped and messages of unknown topics ignored", () => {
  const h = new Harness().open().live("chat/7", "5:2");
  h.message("chat/7", "5:3").message("chat/7", "5:3").message("chat/7", "5:1").message("other", "5:1");
  assert.deepEqual(h.messages("chat/7"), ["5:3"]);
  assert.equal(h.messages("other").length, 0);
});

test("repeated messages disturb nothing, whatever the delivery", () => {
  for (const delivery of ["all", "latest"]) {
    const h = new Harness().open().live("chat/7", "5:2", { delivery }, delivery);
    h.message("chat/7", "5:3").message("chat/7", "5:3").message("chat/7", "5:1").message("chat/7", "5:4");
    assert.deepEqual([h.messages("chat/7"), h.reports("disconnected")], [["5:3", "5:4"], []]);
  }
});

test("every start on a topic without messages resumes from its first message", () => {
  for (const from of ["now", "start", { last: 1 }]) {
    const h = new Harness().open().live("chat/7", "0:0", { from }).clear();
    h.run("closed", 1006, "").advance().open();
    assert.deepEqual(h.sent[0].subscribe.from, { position: "0:0" });
  }
});

test("clients begin with any of the nodes", () => {
  const urls = ["http://a", "http://b", "http://c"];
  const first = (value) => new Harness({ urls, random: () => value }).opened[0];
  assert.deepEqual([0, 0.5, 0.99].map(first), urls);
});

test("messages of an earlier subscription to the topic are ignored", () => {
  const h = new Harness().open().live("chat/7", "5:2");
  h.run("unsubscribe", "chat/7").run("subscribe", "chat/7", { from: "start" }).clear();
  h.message("chat/7", "5:3");
  assert.deepEqual(h.messages("chat/7"), []);
});

test("message after missing ones is not delivered and another connection brings all of them", () => {
  const h = new Harness().open().live("chat/7", "5:2").message("chat/7", "5:3").message("chat/7", "5:5");
  assert.deepEqual(h.messages("chat/7"), ["5:3"]);
  assert.match(h.reports("disconnected")[0].reason, /missing before 5:5/);
  h.clear().advance().open();
  assert.deepEqual(h.sent[0].subscribe.from, { position: "5:3" });
});

test("delays grow while a node keeps skipping messages", () => {
  const h = new Harness().open().live("chat/7", "5:2");
  const delays = [1, 2, 3].map(() => {
    h.clear().message("chat/7", "5:9");
    const [{ retryIn }] = h.reports("disconnected");
    h.advance().open().accept("chat/7", "5:9");
    return retryIn;
  });
  assert.deepEqual(delays, [50, 100, 200]);
});

test("gap is delivered once and moves the position", () => {
  const h = new Harness().open().live("chat/7", "5:2");
  const gap = { topic: "chat/7", from: "5:3", to: "5:8", reason: "expired" };
  h.frame({ gap }).frame({ gap }).message("chat/7", "5:9");
  assert.deepEqual(h.events("chat/7").slice(1), [
    ["gap", gap],
    ["message", "5:9"],
  ]);
});

test("holes are no gap under latest delivery", () => {
  const h = new Harness().open().live("chat/7", "5:2", { delivery: "latest" }, "latest");
  h.message("chat/7", "5:5").message("chat/7", "6:1");
  assert.deepEqual(h.messages("chat/7"), ["5:5", "6:1"]);
  assert.ok(h.of("deliver").at(-1).newestOnly);
});

test("network failures are retried without end, with delays between zero and a bound that doubles to 5 s", () => {
  const h = new Harness();
  h.random = 0.999999;
  const bounds = [];
  for (let attempt = 0; attempt < 200; attempt += 1) {
    h.clear().run("closed", 1006, "");
    bounds.push(Math.round(h.reports("disconnected")[0].retryIn));
    h.advance();
    assert.equal(h.opened.length, 1);
  }
  assert.deepEqual(bounds.slice(0, 8), [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
  assert.equal(bounds.at(-1), 5_000);
  h.random = 0;
  assert.equal(h.clear().run("closed", 1006, "").reports("disconnected")[0].retryIn, 0);
});

test("delays begin anew only after a connection served every topic", () => {
  const h = new Harness();
  h.run("subscribe", "chat/7", {});
  for (let attempt = 0; attempt < 5; attempt += 1) h.run("closed", 1006, "").advance();
  h.clear().open().run("closed", 1006, "");
  assert.equal(h.reports("disconnected")[0].retryIn, 1_600);
  h.clear().advance().open().accept("chat/7").run("closed", 1006, "");
  assert.equal(h.reports("disconnected")[0].retryIn, 50);
});

test("each close code has the effect of the table in the protocol", () => {
  const final = {
    1002: "protocol_error",
    1003: "unsupported",
    1007: "bad_data",
    1009: "too_big",
    4400: "bad_frame",
    4403: "revoked",
  };
  for (const [code, word] of Object.entries(final)) {
    const h = new Harness().open().live("chat/7");
    h.clear().run("closed", Number(code), "because");
    assert.equal(h.reports("closed")[0].code, word);
    assert.equal(h.of("end")[0].error.code, word);
    assert.equal(h.session.deadline(h.now), Infinity);
  }
  for (const code of [1000, 1001, 1006, 1012, 4409, 4410, 4999]) {
    const h = new Harness().open().live("chat/7").clear().run("closed", code, "");
    assert.equal(h.reports("disconnected")[0].retryIn, 50, `${code}`);
  }
  for (const code of [1011, 4408, 4429, 4503, 4508]) {
    const h = new Harness().open().live("chat/7").clear().run("closed", code, "");
    assert.equal(h.reports("disconnected")[0].retryIn, 2_500, `${code}`);
  }
});

test("client moves to another node at a random time after goaway, and receives messages until then", () => {
  const h = new Harness({ urls: ["http://a", "http://b"], random: () => 0 }).open().live("chat/7", "5:2");
  const [first] = h.opened;
  h.frame({ goaway: { after_ms: 0, reason: "draining" } });
  h.advance(0);
  assert.notEqual(h.opened.at(-1), first);

  const slow = new Harness({ urls: ["http://a", "http://b"] }).open().live("chat/7", "5:2").clear();
  slow.frame({ goaway: { after_ms: 800, reason: "draining" } }).message("chat/7", "5:3");
  assert.deepEqual(slow.messages("chat/7"), ["5:3"]);
  slow.advance(399);
  assert.equal(slow.reports("disconnected").length, 0);
  slow.advance(1);
  assert.match(slow.reports("disconnected")[0].reason, /draining/);
  assert.equal(slow.of("disconnect").length, 1);
});

test("node that asked for time is not contacted earlier", () => {
  const h = new Harness().open().live("chat/7");
  h.frame({ goaway: { after_ms: 0, back_ms: 12_800, reason: "overloaded" } });
  assert.equal(h.reports("disconnected")[0].retryIn, 12_800);
  h.clear().run("wake", true);
  assert.deepEqual(h.opened, []);
  h.advance(12_799);
  assert.deepEqual(h.opened, []);
  h.advance(1);
  assert.deepEqual(h.opened, ["http://a"]);
});

test("other nodes are used while one asked for time", () => {
  const h = new Harness({ urls: ["http://a", "http://b"] });
  const [first] = h.opened;
  h.open()
    .frame({ goaway: { after_ms: 0, back_ms: 60_000, reason: "overloaded" } })
    .advance();
  for (let attempt = 0; attempt < 5; attempt += 1) {
    assert.notEqual(h.opened.at(-1), first);
    h.run("closed", 1006, "").advance();
  }
});

test("silent connection is left after two and a half heartbeats", () => {
  const h = new Harness().open().live("chat/7").clear();
  h.advance(62_499);
  assert.equal(h.reports("disconnected").length, 0);
  h.advance(1);
  assert.equal(h.reports("disconnected")[0].reason, "the node is silent");
});

test("heartbeats keep a connection", () => {
  const h = new Harness().open().live("chat/7").clear();
  for (let beat = 0; beat < 100; beat += 1) h.advance(25_000).frame({ heartbeat: { positions: {} } });
  assert.equal(h.reports("disconnected").length, 0);
});

test("device that slept longer than the liveness time connects again at once", () => {
  const h = new Harness().open().live("chat/7").clear();
  h.now += 600_000;
  h.run("wake", false);
  assert.equal(h.reports("disconnected")[0].reason, "the node is silent");
  h.run("wake", false);
  assert.deepEqual(h.opened, ["http://a"]);
});

test("device that slept shortly probes its connection and leaves it without a reply", () => {
  const h = new Harness().open().live("chat/7").clear();
  h.advance(20_000).run("wake", false);
  const [probe] = h.sent;
  assert.ok(probe.unsubscribe);
  h.advance(3_000);
  assert.equal(h.reports("disconnected")[0].reason, "the node is silent");

  const alive = new Harness().open().live("chat/7").clear();
  alive.advance(20_000).run("wake", false);
  alive.frame({ id: alive.sent[0].id, error: { code: "not_subscribed", message: "", retry: false } }).advance(60_000);
  assert.equal(alive.reports("disconnected").length, 0);
});

test("network that comes back ends the wait", () => {
  const h = new Harness();
  h.random = 0.99;
  for (let attempt = 0; attempt < 10; attempt += 1) h.run("closed", 1006, "").advance();
  h.run("closed", 1006, "").clear().run("wake", true);
  assert.deepEqual(h.opened, ["http://a"]);
});

test("node without a reply to the first request is left for another", () => {
  const h = new Harness({ urls: ["http://a", "http://b"] });
  h.run("subscribe", "chat/7", {}).run("opened").clear().advance(10_000);
  assert.equal(h.reports("disconnected")[0].reason, "the node is silent");
});

test("connection that does not open in time is given up, later each time", () => {
  const h = new Harness();
  h.random = 0;
  const times = [1, 2, 3, 4, 5].map(() => {
    const begin = h.now;
    h.clear().advance();
    assert.equal(h.reports("disconnected")[0].reason, "timeout: opening");
    return h.now - begin;
  });
  assert.deepEqual(times, [5_000, 10_000, 15_000, 20_000, 20_000]);
});

test("stale topic is reported, and another node is tried if there is one", () => {
  const alone = new Harness().open().live("chat/7", "5:2");
  alone.frame({ stale: { topic: "chat/7", since: "5:2" } }).advance(60_000);
  alone.frame({ stale: { topic: "chat/7", since: "5:2" } });
  assert.equal(alone.reports("disconnected").length, 0);
  alone.frame({ live: { topic: "chat/7", position: "5:2" } });
  assert.deepEqual(
    alone.events("chat/7").map(([type]) => type),
    ["subscribed", "stale", "live"],
  );

  const h = new Harness({ urls: ["http://a", "http://b"] }).open().live("chat/7", "5:2");
  const waits = [1, 2, 3].map(() => {
    const begin = h.now;
    h.frame({ stale: { topic: "chat/7", since: "5:2" } })
      .clear()
      .advance();
    assert.equal(h.reports("disconnected")[0].reason, "a topic is stale");
    const wait = h.now - begin;
    h.advance().open().accept("chat/7", "5:2");
    return wait;
  });
  assert.deepEqual(waits, [500, 1_000, 2_000]);
});

test("refused topic ends with the code of the node, and the others continue", () => {
  const h = new Harness().open().live("chat/7");
  h.run("subscribe", "secret", {});
  const { id } = h.sent.at(-1);
  h.frame({ id, error: { code: "not_allowed", message: "no grant", retry: false } });
  assert.deepEqual(
    h.of("end").map(({ topic, error }) => [topic, error.code]),
    [["secret", "not_allowed"]],
  );
  h.message("chat/7", "5:1");
  assert.deepEqual(h.messages("chat/7"), ["5:1"]);
});

test("topic without an owner is requested again while the others continue", () => {
  const h = new Harness().open().live("chat/7");
  h.run("subscribe", "other", {});
  const { id } = h.sent.at(-1);
  h.clear().frame({ id, error: { code: "unavailable", message: "no owner", retry: true } });
  assert.equal(h.reports("disconnected").length, 0);
  h.advance(49);
  assert.deepEqual(h.sent, []);
  h.advance(1);
  assert.equal(h.sent[0].subscribe.topic, "other");
});

test("node that serves no topic is left for another", () => {
  const h = new Harness({ urls: ["http://a", "http://b"] });
  const [first] = h.opened;
  h.run("subscribe", "chat/7", {}).open();
  h.frame({ id: h.sent[0].id, error: { code: "unavailable", message: "no owner", retry: true } }).advance();
  assert.notEqual(h.opened.at(-1), first);
});

test("subscription that the node ends has the error that came before", () => {
  const h = new Harness().open().live("chat/7");
  h.frame({ error: { code: "not_allowed", message: "the new token does not grant chat/7", retry: false } });
  h.frame({ unsubscribed: { topic: "chat/7" } });
  const [{ error }] = h.of("end");
  assert.deepEqual([error.code, error.message], ["not_allowed", "the new token does not grant chat/7"]);
});

test("paused topic is ended at the node and continues from its position", () => {
  const h = new Harness().open().live("chat/7", "5:2").message("chat/7", "5:3").clear();
  h.run("setPaused", "chat/7", true);
  assert.deepEqual(
    h.sent.map(({ unsubscribe }) => unsubscribe),
    [{ topic: "chat/7" }],
  );
  h.message("chat/7", "5:4").run("closed", 1006, "").advance().open().clear();
  assert.deepEqual([h.messages("chat/7"), h.sent], [[], []]);
  h.run("setPaused", "chat/7", false);
  assert.deepEqual(h.sent[0].subscribe.from, { position: "5:3" });
});

test("hidden page lowers the rate of newest-only topics, and restores it", () => {
  const h = new Harness({ whenHidden: { rate: 1 } }).open();
  h.live("clock", "5:2", { delivery: "latest" }, "latest").live("chat/7", "5:2").clear();
  h.run("setHidden", true);
  assert.deepEqual(
    h.sent.map(({ subscribe, unsubscribe }) => [(subscribe ?? unsubscribe).topic, subscribe?.delivery]),
    [
      ["clock", undefined],
      ["clock", { rate: 1 }],
    ],
  );
  h.accept("clock", "5:2", { rate: 1 }).clear().run("setHidden", false);
  assert.equal(h.sent[1].subscribe.delivery, "latest");
});

test("hidden page that pauses receives nothing and then everything", () => {
  const h = new Harness({ whenHidden: "pause" }).open().live("chat/7", "5:2").clear();
  h.run("setHidden", true).message("chat/7", "5:3");
  assert.deepEqual([h.messages("chat/7"), h.sent.length], [[], 1]);
  h.run("setHidden", false);
  assert.deepEqual(h.sent[1].subscribe.from, { position: "5:2" });
});

test("hidden page changes nothing by default", () => {
  const h = new Harness().open().live("clock", "5:2", { delivery: "latest" }, "latest").clear();
  h.run("setHidden", true).run("setHidden", false);
  assert.deepEqual(h.sent, []);
});

test("closed client reports its end and does nothing more", () => {
  const h = new Harness().open().live("chat/7").clear().run("close");
  assert.deepEqual(
    h.of("end").map(({ topic, error }) => [topic, error]),
    [["chat/7", undefined]],
  );
  assert.deepEqual(h.reports("closed"), [undefined]);
  h.clear().run("opened").run("closed", 1006, "").run("wake", true).run("tick");
  assert.deepEqual([h.effects, h.session.deadline(h.now)], [[], Infinity]);
});

test("other transport is used when connections bring nothing, and the best one is tried again", () => {
  const h = new Harness({ transports: ["websocket", "sse"] });
  for (let attempt = 0; attempt < 2; attempt += 1) h.run("closed", 1006, "").advance();
  assert.equal(h.of("open").at(-1).transport, "sse");
  h.open().live("chat/7").clear();
  h.advance(30_000);
  assert.deepEqual(
    h.of("try").map(({ transport }) => transport),
    ["websocket"],
  );
  h.run("tried", false);
  h.frame({}, ":").advance(60_000);
  assert.equal(h.of("try").length, 2);
  h.run("tried", true).advance();
  assert.equal(h.of("open").at(-1).transport, "websocket");
});

test("nodes that are down cost a try of each transport, and the best one is used again", () => {
  const h = new Harness({ transports: ["websocket", "sse"] });
  for (let attempt = 0; attempt < 4; attempt += 1) h.run("closed", 1006, "").advance();
  assert.deepEqual(
    h.of("open").map(({ transport }) => transport),
    ["websocket", "websocket", "sse", "sse", "websocket"],
  );
});
