// Save, then publish once: nothing is lost or stored twice, wherever a process is killed.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { before, beforeEach, describe, test } from "node:test";
import { createApp } from "../app.js";
import * as outbox from "../outbox.js";
import { Cluster, history, newest, offset, server, suiteTestbed, waitUntil } from "./cluster.js";

const program = (name) => `${import.meta.dirname}/${name}`;

describe("an outbox", () => {
  let testbed, address, cluster, path, database;
  let databases = 0;
  const createTestbed = suiteTestbed();
  before(async () => {
    testbed = await createTestbed();
    address = server(await testbed.node());
    cluster = new Cluster([address]);
  });
  beforeEach(() => {
    path = testbed.path(`${++databases}.db`);
    database = outbox.connect(path);
  });

  function startRelay(context) {
    const child = spawn(process.execPath, [program("../relay.js"), path, address], { stdio: "ignore" });
    const ended = once(child, "exit");
    context.after(async () => {
      child.kill("SIGKILL");
      await ended;
    });
    return { child, ended };
  }

  const save = (topic, message) => outbox.transaction(database, () => outbox.save(database, topic, message));
  const published = () => waitUntil("every message is published", () => !outbox.oldest(database));
  const values = async (topic, count) =>
    (await history(cluster, topic, count)).map((message) => JSON.parse(message.payload.toString()));
  const storedOnly = async (topic, count) => assert.equal(offset(await newest(cluster, topic)), count);

  /** Runs crash.js, which saves one message and is killed at the point. */
  async function crash(point) {
    const child = spawn(process.execPath, [program("crash.js"), point, path, address], { stdio: "inherit" });
    const [, signal] = await once(child, "exit");
    assert.equal(signal, "SIGKILL");
  }

  test("crash before the commit saves and publishes nothing", async () => {
    await crash("before the commit");
    assert.equal(outbox.oldest(database), undefined);
    assert.deepEqual(database.prepare("SELECT * FROM goals").all(), []);
  });

  for (const [point, isStored] of [
    ["before the publish", false],
    ["between the publish and the delete", true],
  ]) {
    test(`crash ${point} stores the message once`, async (context) => {
      await crash(point);
      // The crash was where it should be.
      assert.equal((await newest(cluster, point)) !== "0:0", isStored);
      assert.ok(outbox.oldest(database));
      startRelay(context);
      await published();
      assert.deepEqual(await values(point, 1), ["1:0"]);
      await storedOnly(point, 1);
    });
  }

  test("relay that is killed at random times keeps the order and stores each message once", async (context) => {
    for (let number = 0; number < 200; number++) save("random", number);
    let killedAtWork = 0;
    for (let kills = 0; kills < 5 && outbox.oldest(database); kills++) {
      const { id } = outbox.oldest(database);
      const { child, ended } = startRelay(context);
      await waitUntil("the relay works", () => outbox.oldest(database)?.id !== id);
      await sleep(Math.random() * 20);
      child.kill("SIGKILL");
      await ended;
      if (outbox.oldest(database)) killedAtWork++;
    }
    assert.ok(killedAtWork > 0);
    startRelay(context);
    await published();
    assert.deepEqual(await values("random", 200), Array.from({ length: 200 }, (_, number) => number));
    await storedOnly("random", 200);
  });

  test("defective message is set aside and those behind it are published", async (context) => {
    save("defective", "x".repeat(70_000));
    save("defective", "2:1");
    startRelay(context);
    await published();
    assert.deepEqual(await values("defective", 1), ["2:1"]);
    assert.match(database.prepare("SELECT error FROM outbox").get().error, /too_large/);
  });

  test("message is not saved outside a transaction", () => {
    assert.throws(() => outbox.save(database, "chat/7", "1:0"), /transaction/);
  });

  test("request saves the comment and the relay publishes it", async (context) => {
    const url = await listen(context, database);
    // No relay and no cluster is needed for a request.
    const response = await fetch(url, { method: "POST", body: new URLSearchParams({ text: "hello" }) });
    assert.equal(response.status, 201);
    const comment = await response.json();
    assert.deepEqual(comment, { id: 1, text: "hello" });
    startRelay(context);
    assert.deepEqual(await values("articles/7/comments", 1), [comment]);
    assert.deepEqual(await (await fetch(url)).json(), [comment]);
  });

  test("failed request saves neither the comment nor the message", async (context) => {
    const url = await listen(context, database);
    database.exec("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END");
    // Express prints the error of a failed request.
    context.mock.method(console, "error", () => {});
    const response = await fetch(url, { method: "POST", body: new URLSearchParams({ text: "hello" }) });
    assert.equal(response.status, 500);
    assert.deepEqual(await (await fetch(url)).json(), []);
  });

  test("relay ends when it is asked to", async (context) => {
    const { child, ended } = startRelay(context);
    save("ended", 1);
    await published();
    child.kill("SIGTERM");
    assert.deepEqual(await ended, [0, null]);
  });
});

/** Serves the application. */
async function listen(context, database) {
  const listener = createApp(database).listen(0, "127.0.0.1");
  await once(listener, "listening");
  context.after(() => new Promise((resolve) => listener.close(resolve)));
  return `http://127.0.0.1:${listener.address().port}/articles/7/comments`;
}
