// Tokens: renewal, expiry, refusal, revocation, grants.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { connect, once, range, received, record } from "./client.js";
import { inTime, Testbed, waitUntil } from "./nodes.js";

/** @type {Testbed} */
let testbed;
let node;
let mint;
before(async (context) => {
  testbed = await Testbed.create(context);
  const issuer = await testbed.issuer();
  mint = issuer.mint;
  node = await testbed.node(...issuer.flags, "--token-grace", "1s");
});

const GRANTS = ["--subscribe", "chat/**", "--publish", "chat/**"];
const mintFor = (subject, expiresIn = "1h") => mint("--subject", subject, "--expires-in", expiresIn, ...GRANTS);

test("token is renewed in the connection before it expires, without a gap", async (context) => {
  const reasons = [];
  const client = connect(context, node.url, {
    token: async ({ reason }) => {
      reasons.push(reason);
      return mintFor("alice", "4s");
    },
  });
  const disconnected = [];
  client.on("disconnected", (event) => disconnected.push(event));
  const recorded = record(client.subscribe("chat/renewal", { from: "start" }));
  let count = 0;
  const end = Date.now() + 12_000; // Three times the life of a token.
  while (Date.now() < end) {
    await client.publish("chat/renewal", ++count);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await received(recorded, count);
  assert.deepEqual(recorded.data, range(1, count));
  assert.deepEqual([reasons[0], new Set(reasons.slice(1)), disconnected], ["connect", new Set(["expiring"]), []]);
});

test("expired token is replaced, and the subscription continues in another connection", async (context) => {
  const reasons = [];
  const publisher = connect(context, node.url, { token: await mintFor("site") });
  const client = connect(context, node.url, {
    token: await mintFor("bob", "2s"),
    // The page is too late for a renewal.
    getToken: async ({ reason }) => {
      reasons.push(reason);
      if (reason === "expiring") return new Promise(() => {});
      return mintFor("bob");
    },
  });
  const disconnected = once(client, "disconnected");
  const subscription = client.subscribe("chat/expiry");
  const recorded = record(subscription);
  await inTime("the subscription", subscription.subscribed);
  await publisher.publish("chat/expiry", 1);
  const { code } = await disconnected;
  assert.equal(code, 4402);
  await publisher.publish("chat/expiry", 2);
  await publisher.publish("chat/expiry", 3);
  await received(recorded, 3);
  assert.deepEqual(recorded.data, [1, 2, 3]);
  assert.deepEqual(reasons, ["expiring", "expired"]);
});

test("application that sets a token keeps its connection", async (context) => {
  const client = connect(context, node.url, { token: await mintFor("carol", "3s") });
  const disconnected = [];
  client.on("disconnected", (event) => disconnected.push(event));
  const subscription = client.subscribe("chat/set");
  const recorded = record(subscription);
  await inTime("the subscription", subscription.subscribed);
  client.setToken(await mintFor("carol"));
  await new Promise((resolve) => setTimeout(resolve, 6_000)); // The first token and its grace end after 4 s.
  await client.publish("chat/set", 1);
  await received(recorded, 1);
  assert.deepEqual(disconnected, []);
});

test("invalid token rejects at once and is not sent again", async (context) => {
  const client = connect(context, node.url, { token: `${await mintFor("mallory")}x` });
  const connections = [];
  client.on("disconnected", (event) => connections.push(event));
  const subscription = client.subscribe("chat/refused");
  await assert.rejects(inTime("the refusal", subscription.subscribed), { code: "not_authenticated" });
  await assert.rejects(client.publish("chat/refused", 1), { outcome: "rejected", code: "closed" });
  assert.equal(client.state, "closed");
  assert.deepEqual(
    connections.map(({ retryIn }) => retryIn),
    [undefined],
  );
});

test("expired token at the start is replaced by the function", async (context) => {
  const reasons = [];
  const expired = await mintFor("dave", "1s");
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  const client = connect(context, node.url, {
    token: expired,
    getToken: async ({ reason }) => {
      reasons.push(reason);
      return mintFor("dave");
    },
  });
  await inTime("the subscription", client.subscribe("chat/late").subscribed);
  assert.deepEqual(reasons, ["expired"]);
});

test("revoked token ends the client for good", async (context) => {
  const client = connect(context, node.url, { token: await mintFor("eve") });
  const subscription = client.subscribe("chat/revoked");
  await inTime("the subscription", subscription.subscribed);
  const closed = once(client, "closed");
  const admin = await mint("--subject", "operator", "--admin", "write");
  await testbed.command(["token", "revoke", "--subject", "eve", "--server", node.grpc], { PUSHONCE_TOKEN: admin });
  assert.equal((await closed).code, "revoked");
  await assert.rejects(subscription[Symbol.asyncIterator]().next(), { code: "revoked" });
});

test("topic without a grant is refused, and the others continue", async (context) => {
  const client = connect(context, node.url, { token: await mintFor("frank") });
  await assert.rejects(inTime("the refusal", client.subscribe("staff/7").subscribed), { code: "not_allowed" });
  await assert.rejects(client.publish("staff/7", 1), { outcome: "rejected", code: "not_allowed", retry: false });
  await inTime("the subscription", client.subscribe("chat/7").subscribed);
  await assert.rejects(client.snapshot("staff/7"), { code: "not_allowed" });
});

test("client without a token is refused by topic", async (context) => {
  const client = connect(context, node.url);
  await assert.rejects(inTime("the refusal", client.subscribe("chat/7").subscribed), { code: "not_authenticated" });
  await assert.rejects(client.snapshot("chat/7"), { code: "not_authenticated" });
});

test("token of another user opens another connection", async (context) => {
  const client = connect(context, node.url, { token: await mintFor("grace") });
  const subscription = client.subscribe("chat/users");
  const recorded = record(subscription);
  await inTime("the subscription", subscription.subscribed);
  const disconnected = once(client, "disconnected");
  client.setToken(await mintFor("heidi"));
  await disconnected;
  await waitUntil("the client is connected", () => client.state === "open");
  await client.publish("chat/users", 1);
  await received(recorded, 1);
});
