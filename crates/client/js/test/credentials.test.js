import assert from "node:assert/strict";
import { test } from "node:test";

import { PushonceError } from "../src/errors.js";
import { Harness } from "./session-harness.js";

const refusal = (id, code = "not_authenticated") => ({ id, error: { code, message: "no", retry: false } });
const tokens = (h) => h.of("token").map(({ reason }) => reason);
const authenticate = (h) => h.sent.filter((frame) => frame.authenticate).map((frame) => frame.authenticate.token);

test("token is sent first, and requests follow it without waiting", () => {
  const h = new Harness({ token: "t1" });
  h.run("subscribe", "chat/7", {}).run("opened");
  assert.deepEqual(h.sent[0], { id: 1, authenticate: { token: "t1" } });
  assert.equal(h.sent[1].subscribe.topic, "chat/7");
  assert.deepEqual(h.reports("connected"), []);
  h.frame({ id: 1, authenticated: { expires: 0 } });
  assert.deepEqual(h.reports("connected"), [{ url: "http://a", transport: "websocket" }]);
});

test("publishes wait until the token is accepted", () => {
  const h = new Harness({ token: "t1" });
  h.run("publish", 1, { topic: "t/1", key: "k", data: 1 }, 8_000).run("opened");
  assert.equal(h.sent.length, 1);
  h.frame({ id: 1, authenticated: { expires: 0 } });
  assert.equal(h.sent[1].publish.key, "k");
});

test("node without issuers serves a client with a token", () => {
  const h = new Harness({ token: "t1" }).run("opened");
  h.frame(refusal(1, "not_supported"));
  assert.equal(h.reports("connected").length, 1);
});

test("refused token ends the client at once when there is no function for another", () => {
  const h = new Harness({ token: "t1" });
  h.run("subscribe", "chat/7", {}).run("opened").frame(refusal(1));
  assert.equal(h.of("end")[0].error.code, "not_authenticated");
  assert.equal(h.reports("closed")[0].code, "not_authenticated");
  assert.deepEqual(h.opened, ["http://a"]);
  assert.equal(h.session.deadline(h.now), Infinity);
});

test("refused token is replaced once, and is not sent again", () => {
  const h = new Harness({ canAsk: true });
  assert.deepEqual([tokens(h), h.opened], [["connect"], []]);
  h.run("token", "t1").run("opened").frame(refusal(1)).advance();
  assert.deepEqual(tokens(h), ["connect", "rejected"]);
  h.run("token", "t2").open();
  assert.deepEqual(authenticate(h), ["t1", "t2"]);
  assert.deepEqual(h.reports("closed"), []);

  const twice = new Harness({ canAsk: true }).run("token", "t1").run("opened").frame(refusal(1)).advance();
  twice.run("token", "t2").run("opened").clear().frame(refusal(1));
  assert.equal(twice.reports("closed")[0].code, "not_authenticated");

  const same = new Harness({ canAsk: true }).run("token", "t1").run("opened").frame(refusal(1)).advance();
  same.clear().run("token", "t1");
  assert.equal(same.reports("closed")[0].code, "not_authenticated");
  assert.deepEqual(same.sent, []);
});

test("token is kept across connections", () => {
  const h = new Harness({ canAsk: true }).run("token", "t1").open();
  for (let connection = 0; connection < 5; connection += 1) h.run("closed", 1006, "").advance().open();
  assert.deepEqual(tokens(h), ["connect"]);
  assert.deepEqual(new Set(authenticate(h)), new Set(["t1"]));
});

test("token is renewed in the connection when a fifth of its time is left", () => {
  const h = new Harness({ canAsk: true }).run("token", "t1").run("opened");
  h.frame({ id: 1, authenticated: { expires: h.now + 300_000 } }).clear();
  for (let beat = 0; beat < 23; beat += 1) h.advance(10_000).frame({ heartbeat: { positions: {} } });
  assert.deepEqual(tokens(h), []);
  h.advance(10_000);
  assert.deepEqual(tokens(h), ["expiring"]);
  h.run("token", "t2");
  assert.deepEqual(authenticate(h), ["t2"]);
  h.frame({ id: h.sent[0].id, authenticated: { expires: h.now + 300_000 } });
  assert.deepEqual([h.reports("connected"), h.reports("disconnected")], [[], []]);
});

test("token that stays the same is requested less and less often", () => {
  const h = new Harness({ canAsk: true }).run("token", "t1").open({ expires: 1 }).clear();
  const waits = [];
  while (waits.length < 9) {
    const begin = h.now;
    while (!h.of("token").length) h.advance(1_000).frame({});
    waits.push(h.now - begin);
    h.run("token", "t1").clear();
  }
  assert.deepEqual(waits.slice(0, 7), [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000]);
  assert.deepEqual(waits.slice(7), [64_000, 64_000]);
});

test("expired token is replaced before the next connection", () => {
  const h = new Harness({ canAsk: true }).run("token", "t1").open().live("chat/7", "5:2").clear();
  h.run("closed", 4402, "").advance();
  assert.deepEqual([tokens(h), h.opened], [["expired"], []]);
  h.run("token", "t2").open();
  assert.deepEqual(authenticate(h), ["t2"]);
  assert.deepEqual(h.sent[1].subscribe.from, { position: "5:2" });
});

test("expired token without a function for another ends the client", () => {
  const h = new Harness({ token: "t1" }).open().live("chat/7").clear().run("closed", 4402, "");
  assert.equal(h.of("end")[0].error.code, "token_expired");
});

test("revoked token ends the client although there is a function for another", () => {
  const h = new Harness({ canAsk: true }).run("token", "t1").open().live("chat/7").clear().run("closed", 4403, "");
  assert.equal(h.reports("closed")[0].code, "revoked");
  assert.deepEqual(tokens(h), []);
});

test("function that fails is called again after a delay, and gives up with its own error", () => {
  const h = new Harness({ canAsk: true }).run("tokenFailed", new Error("offline"));
  assert.match(h.reports("disconnected")[0].reason, /offline/);
  h.advance();
  assert.deepEqual(tokens(h), ["connect", "connect"]);
  h.run("tokenFailed", new PushonceError("not_authenticated", "signed out"));
  assert.equal(h.reports("closed")[0].message, "signed out");
});

test("function that does not return is called again", () => {
  const h = new Harness({ canAsk: true }).advance(30_000).advance();
  assert.deepEqual(tokens(h), ["connect", "connect"]);
});

test("node that cannot verify the token now is left, and a renewal is tried again", () => {
  const unavailable = (id) => ({ id, error: { code: "unavailable", message: "no keys", retry: true } });
  const first = new Harness({ token: "t1" }).run("opened").frame(unavailable(1));
  assert.deepEqual(first.reports("closed"), []);
  assert.equal(first.reports("disconnected")[0].reason, "no keys");

  const h = new Harness({ canAsk: true }).run("token", "t1").open({ expires: 1_010_000 }).clear();
  h.advance(8_000).run("token", "t2");
  h.frame(unavailable(h.sent[0].id));
  assert.deepEqual(h.reports("disconnected"), []);
  h.advance();
  assert.deepEqual(tokens(h), ["expiring", "expiring"]);
});

test("token that the application sets is sent in the connection, and one of another user in another", () => {
  const h = new Harness({ token: "t1" }).open().live("chat/7", "5:2").clear().run("token", "t2");
  assert.deepEqual(authenticate(h), ["t2"]);
  h.frame(refusal(h.sent[0].id, "not_allowed")).clear().advance().open();
  assert.deepEqual(authenticate(h), ["t2"]);
  assert.deepEqual(h.sent[1].subscribe.from, { position: "5:2" });
});
