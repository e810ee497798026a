// The three outcomes of a publish, against real nodes and against servers that fail.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { before, describe, test } from "node:test";
import { Publisher } from "../publisher.js";
import { Subscriber } from "../subscriber.js";
import { Cluster, PATIENCE, history, inTime, newest, offset, server, suiteTestbed, waitUntil } from "./cluster.js";

/** A server that accepts connections and never answers. */
async function silentServer(context) {
  const sockets = [];
  const silent = createServer((socket) => sockets.push(socket.on("error", () => {})));
  await new Promise((resolve) => silent.listen(0, "127.0.0.1", resolve));
  context.after(() => {
    for (const socket of sockets) socket.destroy();
    silent.close();
  });
  return `127.0.0.1:${silent.address().port}`;
}

/** An address where nothing listens. */
async function closedServer() {
  const closed = createServer();
  await new Promise((resolve) => closed.listen(0, "127.0.0.1", resolve));
  const { port } = closed.address();
  await new Promise((resolve) => closed.close(resolve));
  return `127.0.0.1:${port}`;
}

async function publish(cluster, topic, payload, { deadlineMs = PATIENCE, ...options } = {}) {
  const publisher = new Publisher(cluster, deadlineMs);
  try {
    return await publisher.publish(topic, payload, options);
  } finally {
    publisher.close();
  }
}

describe("a node without issuers", () => {
  let address, cluster;
  const createTestbed = suiteTestbed();
  before(async () => {
    address = server(await (await createTestbed()).node());
    cluster = new Cluster([address]);
  });

  test("stored message is acknowledged with its position", async () => {
    const outcome = await publish(cluster, "stored", "2:1", { contentType: "text/csv" });
    assert.equal(outcome.kind, "acknowledged");
    assert.equal(outcome.durability, "DURABILITY_REPLICATED");
    const [message] = await history(cluster, "stored", 1);
    assert.deepEqual([message.position, message.content_type], [outcome.position, "text/csv"]);
    assert.equal(message.payload.toString(), "2:1");
  });

  test("repeated key gets the first position and is stored once", async () => {
    const first = await publish(cluster, "repeated", "1", { key: "order-1" });
    assert.deepEqual(await publish(cluster, "repeated", "1", { key: "order-1" }), first);
    assert.equal(await newest(cluster, "repeated"), first.position);
  });

  test("messages that break a rule are rejected with a code word", async () => {
    await publish(cluster, "broken", "1", { key: "order-1" });
    for (const [reason, topic, payload, key] of [
      ["bad_topic", "a//b", "1"],
      ["too_large", "broken", "1".repeat(70_000)],
      ["key_reused", "broken", "2", "order-1"],
    ]) {
      const outcome = await publish(cluster, topic, payload, { key });
      assert.deepEqual([outcome.kind, outcome.reason, outcome.retry], ["rejected", reason, false]);
    }
  });

  test("next server is used when one is closed or silent", async (context) => {
    const servers = [await closedServer(), await silentServer(context), address];
    const outcome = await publish(new Cluster(servers), "next", "1");
    assert.equal(outcome.kind, "acknowledged");
    assert.equal(offset(await newest(cluster, "next")), 1);
  });

  test("outcome is unknown when no server answers before the deadline", async (context) => {
    for (const unreachable of [await closedServer(), await silentServer(context)]) {
      const outcome = await publish(new Cluster([unreachable]), "unknown", "1", { deadlineMs: 500 });
      assert.equal(outcome.kind, "unknown");
    }
  });

  test("outcome stays unknown when a later attempt is rejected", async () => {
    const outcome = await publish(new Cluster([await closedServer(), address]), "a//b", "1");
    assert.equal(outcome.kind, "unknown");
  });

  test("subscriber continues from a stored position and rejects a malformed topic", async () => {
    const positions = [];
    for (const payload of ["1", "2", "3"]) positions.push((await publish(cluster, "resumed", payload)).position);
    const subscriber = new Subscriber(cluster, "resumed", { position: positions[0] });
    const events = subscriber.events();
    for (const position of positions.slice(1)) {
      const { value } = await inTime(`the message at ${position}`, events.next());
      assert.equal(value.message.position, position);
    }
    assert.deepEqual(subscriber.startFrom, { position: positions[2] });
    await inTime("the end of the subscription", events.return());
    const malformed = new Subscriber(cluster, "a//b").events().next();
    await assert.rejects(inTime("the rejection of the topic", malformed), /INVALID_ARGUMENT/);
  });
});

describe("a node with TLS and issuers", () => {
  let address, mint, roots;
  const createTestbed = suiteTestbed();
  before(async () => {
    const testbed = await createTestbed();
    const issuer = await testbed.issuer();
    mint = issuer.mint;
    await testbed.command(["ca", "init", "--dir", testbed.path("ca"), "--host", "127.0.0.1"]);
    roots = await readFile(testbed.path("ca/ca.crt"));
    const [cert, key] = ["node.crt", "node.key"].map((file) => testbed.path(`ca/127.0.0.1/${file}`));
    const https = await closedServer();
    const flags = ["--token-grace", "0s", "--https", https, "--tls-cert", cert, "--tls-key", key];
    address = server(await testbed.node(...issuer.flags, ...flags));
  });

  test("token that allows the topic publishes over TLS", async () => {
    const token = await mint("--publish", "chat/*", "--subscribe", "chat/*");
    const cluster = new Cluster([address], { token: () => token, roots });
    const outcome = await publish(cluster, "chat/1", "1");
    assert.equal(outcome.kind, "acknowledged");
    assert.equal((await history(cluster, "chat/1", 1))[0].position, outcome.position);
  });

  test("missing token and missing grant are rejected", async () => {
    const token = await mint("--publish", "chat/*");
    const without = await publish(new Cluster([address], { roots }), "chat/7", "1");
    assert.equal(without.reason, "not_authenticated");
    const elsewhere = await publish(new Cluster([address], { token: () => token, roots }), "news/7", "1");
    assert.equal(elsewhere.reason, "not_allowed");
  });

  test("expired token is replaced at the next attempt", async () => {
    const expired = await mint("--publish", "chat/*", "--expires-in", "1s");
    const valid = await mint("--publish", "chat/*");
    await waitUntil("the first token has expired", async () => {
      let asked = 0;
      const token = () => (++asked === 1 ? expired : valid);
      const outcome = await publish(new Cluster([address], { token, roots }), "chat/7", "1");
      assert.equal(outcome.kind, "acknowledged");
      return asked === 2;
    });
  });

  test("unknown authority is not trusted", async () => {
    const outcome = await publish(new Cluster([address], { roots: "public" }), "chat/7", "1", { deadlineMs: 1_000 });
    assert.equal(outcome.kind, "unknown");
  });
});
