// The SDK in Chromium, imported by a page without a build step. Needs Debian's chromium, or another one named by
// CHROMIUM.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { test } from "node:test";

import { chromium } from "playwright-core";

import { range } from "../integration/client.js";
import { PATIENCE, Testbed, waitUntil } from "../integration/nodes.js";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const PACKAGE = join(import.meta.dirname, "../..");
const skip = existsSync(CHROMIUM) ? false : `there is no ${CHROMIUM}: install Debian's chromium, or set CHROMIUM`;

/** A site with the files of the package, and a page of it in a browser. */
async function openSite(context) {
  const server = createServer(async (request, response) => {
    response.setHeader("content-type", extname(request.url) === ".js" ? "text/javascript" : "text/html");
    const file =
      request.url === "/" ? "<!doctype html><link rel=icon href=data:,>" : readFile(join(PACKAGE, request.url));
    response.end(await file);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  context.after(async () => {
    await browser.close();
    await new Promise((resolve) => server.close(resolve));
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  const site = { origin, page, errors: [], hosts: new Set() };
  page.on("pageerror", (error) => site.errors.push(String(error)));
  page.on("request", (request) => site.hosts.add(new URL(request.url()).host));
  page.on("websocket", (socket) => site.hosts.add(new URL(socket.url()).host));
  return site;
}

/** Subscribes in the page. The messages are `received`, the events of the client `events`. */
const subscribe = (page, urls, topic, options = {}, module = "/src/index.js", connectOptions = {}) =>
  page.evaluate(
    async ([urls, topic, options, module, connectOptions]) => {
      const { connect } = await import(module);
      const page = /** @type {any} */ (globalThis);
      page.client = connect(urls, connectOptions);
      page.received = [];
      page.events = [];
      for (const name of ["connected", "disconnected", "closed"]) {
        page.client.on(name, (value) => page.events.push([name, value?.transport ?? value?.reason]));
      }
      const subscription = page.client.subscribe(topic, options);
      subscription.on("message", ({ data }) => page.received.push(data));
      subscription.on("gap", (gap) => page.events.push(["gap", gap.reason]));
      return (await subscription.subscribed).position;
    },
    [urls, topic, options, module, connectOptions],
  );

const received = (page) => page.evaluate(() => /** @type {any} */ (globalThis).received);
const events = (page) => page.evaluate(() => /** @type {any} */ (globalThis).events);

async function publish(node, topic, value) {
  const response = await fetch(`${node.url}/topics/${topic}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(value),
  });
  assert.equal(response.status, 200);
}

test("page imports the sources, or the minified file, and is level with its topic", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const site = await openSite(context);
  const node = await testbed.node("--origins", site.origin);
  for (const module of ["/src/index.js", "/dist/index.js"]) {
    await site.page.goto(site.origin);
    const topic = `page${module}`;
    await subscribe(site.page, node.url, topic, { delta: true }, module);
    const values = range(1, 20).map((number) => ({ number, text: "the same in every message ".repeat(20) }));
    for (const value of values) await publish(node, topic, value);
    await waitUntil("the page is level", async () => (await received(site.page)).length === 20);
    assert.deepEqual(await received(site.page), values);
    const snapshot = await site.page.evaluate((name) => /** @type {any} */ (globalThis).client.snapshot(name), topic);
    assert.deepEqual(snapshot.data, values.at(-1));
    const stored = await site.page.evaluate((name) => /** @type {any} */ (globalThis).client.publish(name, 1), topic);
    assert.equal(stored.durability, "replicated");
    assert.deepEqual(await events(site.page), [["connected", "websocket"]]);
  }
  assert.deepEqual(site.errors, []);
  assert.deepEqual(site.hosts, new Set([new URL(site.origin).host, node.address]));
});

test("page goes on at another node without a missing message when its node is killed", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const site = await openSite(context);
  const nodes = await testbed.cluster("--origins", site.origin);
  await site.page.goto(site.origin);
  await subscribe(
    site.page,
    nodes.map(({ url }) => url),
    "page/score",
    { from: "start" },
  );
  const url = await site.page.evaluate(() => /** @type {any} */ (globalThis).client.url);
  const [survivor] = nodes.filter((node) => node.url !== url);
  for (const value of range(1, 50)) {
    if (value === 20) await nodes.find((node) => node.url === url).kill();
    // The owner of the topic may have been the killed node.
    await waitUntil("the message is stored", () =>
      publish(survivor, "page/score", value).then(
        () => true,
        () => false,
      ),
    );
  }
  await waitUntil("the page is level", async () => (await received(site.page)).at(-1) === 50);
  // A publish by hand without a key may be stored twice where its reply was lost.
  assert.deepEqual([...new Set(await received(site.page))], range(1, 50));
  assert.ok(!(await events(site.page)).some(([name]) => name === "gap" || name === "closed"));
  assert.deepEqual(site.errors, []);
});

test("page without WebSockets reads event streams, and the next page begins with them", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const site = await openSite(context);
  const node = await testbed.node("--origins", site.origin);
  await site.page.addInitScript(() => {
    /** @type {any} */ (globalThis).WebSocket = class {
      constructor() {
        /** @type {any} */ (globalThis).attempts = /** @type {any} */ (globalThis.attempts ?? 0) + 1;
        setTimeout(() => /** @type {any} */ (this).onclose?.({ code: 1006, reason: "" }));
      }
      close() {}
    };
  });
  for (const [attempt, attempts] of [2, undefined].entries()) {
    await site.page.goto(site.origin);
    await subscribe(site.page, node.url, `page/sse/${attempt}`);
    assert.equal(await site.page.evaluate(() => /** @type {any} */ (globalThis).attempts), attempts);
    for (const value of range(1, 20)) await publish(node, `page/sse/${attempt}`, value);
    await waitUntil("the page is level", async () => (await received(site.page)).length === 20);
    assert.deepEqual(await received(site.page), range(1, 20));
  }
  assert.deepEqual(site.errors, []);
});

/** Makes every WebSocket of the page fail at once. */
const blockWebSockets = (page) =>
  page.addInitScript(() => {
    /** @type {any} */ (globalThis).WebSocket = class {
      readyState = 3;
      constructor() {
        setTimeout(() => /** @type {any} */ (this).onclose?.({ code: 1006, reason: "" }), 1_000);
      }
      close() {}
    };
  });

test("page receives and publishes over WebTransport", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const site = await openSite(context);
  const node = await testbed.node("--origins", site.origin);
  await site.page.goto(site.origin);
  const connectOptions = { transports: ["webtransport"] };
  for (const module of ["/src/index.js", "/dist/index.js"]) {
    const topic = `page/webtransport${module}`;
    await subscribe(site.page, node.url, topic, {}, module, connectOptions);
    // Longer than a packet, and longer than the windows of a stream.
    const values = range(1, 20).map((number) => ({ number, text: "ä".repeat(number * 1_000) }));
    for (const value of values) await publish(node, topic, value);
    await waitUntil("the page is level", async () => (await received(site.page)).length === 20);
    assert.deepEqual(await received(site.page), values);
    const stored = await site.page.evaluate(
      ([name, text]) => /** @type {any} */ (globalThis).client.publish(name, text),
      [topic, "x".repeat(30_000)],
    );
    assert.equal(stored.durability, "replicated");
    await waitUntil("the page has its own message", async () => (await received(site.page)).length === 21);
    assert.deepEqual(await events(site.page), [["connected", "webtransport"]]);
    const metrics = await (await fetch(`${node.url}/metrics`)).text();
    assert.match(metrics, /pushonce_gateway_sessions{transport="webtransport"} 1\n/);
    await site.page.evaluate(() => /** @type {any} */ (globalThis).client.close());
    await waitUntil("the node knows that the session is over", async () => {
      const metrics = await (await fetch(`${node.url}/metrics`)).text();
      return /pushonce_gateway_sessions{transport="webtransport"} 0\n/.test(metrics);
    });
  }
  assert.deepEqual(site.errors, []);
});

test("page gets the newest messages of a topic as datagrams", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const site = await openSite(context);
  const node = await testbed.node("--origins", site.origin);
  await site.page.goto(site.origin);
  await site.page.evaluate(() => {
    const page = /** @type {any} */ (globalThis);
    page.datagrams = 0;
    const { prototype } = page.WebTransportDatagramDuplexStream;
    const { get } = /** @type {any} */ (Object.getOwnPropertyDescriptor(prototype, "readable"));
    const count = () =>
      new TransformStream({
        transform: (chunk, controller) => {
          page.datagrams += 1;
          controller.enqueue(chunk);
        },
      });
    Object.defineProperty(prototype, "readable", {
      get: /** @this {any} */ function () {
        return get.call(this).pipeThrough(count());
      },
    });
  });
  const connectOptions = { transports: ["webtransport"], webTransport: { datagrams: true } };
  await subscribe(site.page, node.url, "page/datagrams", { delivery: "latest" }, undefined, connectOptions);
  // One after another, so that none replaces another. The third does not fit a datagram.
  const values = range(1, 10).map((number) => ({ number, text: number === 3 ? "x".repeat(5_000) : "" }));
  for (const [index, value] of values.entries()) {
    await publish(node, "page/datagrams", value);
    await waitUntil("the page has the message", async () => (await received(site.page)).length > index);
  }
  assert.deepEqual(await received(site.page), values);
  const datagrams = await site.page.evaluate(() => /** @type {any} */ (globalThis).datagrams);
  assert.ok(datagrams >= 5 && datagrams <= 9, `${datagrams} of 10 messages came as datagrams`);
  assert.deepEqual(site.errors, []);
});

test("page over WebTransport goes on at another node without a missing message", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const site = await openSite(context);
  const nodes = await testbed.cluster("--origins", site.origin);
  await site.page.goto(site.origin);
  const urls = nodes.map(({ url }) => url);
  const connectOptions = { transports: ["webtransport"] };
  await subscribe(site.page, urls, "page/goals", { from: "start" }, undefined, connectOptions);
  const url = await site.page.evaluate(() => /** @type {any} */ (globalThis).client.url);
  const [survivor] = nodes.filter((node) => node.url !== url);
  for (const value of range(1, 50)) {
    if (value === 20) await nodes.find((node) => node.url === url).kill();
    // The owner of the topic may have been the killed node.
    await waitUntil("the message is stored", () =>
      publish(survivor, "page/goals", value).then(
        () => true,
        () => false,
      ),
    );
  }
  await waitUntil("the page is level", async () => (await received(site.page)).at(-1) === 50);
  // A publish by hand without a key may be stored twice where its reply was lost.
  assert.deepEqual([...new Set(await received(site.page))], range(1, 50));
  const reported = await events(site.page);
  assert.ok(!reported.some(([name]) => name === "gap" || name === "closed"));
  const transports = reported.filter(([name]) => name === "connected").map(([, transport]) => transport);
  assert.ok(transports.length > 1, "the page was connected to another node");
  assert.deepEqual(new Set(transports), new Set(["webtransport"]));
  assert.deepEqual(site.errors, []);
});

test(
  "page without WebSockets uses WebTransport, and one without WebTransport WebSockets",
  { skip },
  async (context) => {
    const testbed = await Testbed.create(context);
    const site = await openSite(context);
    const node = await testbed.node("--origins", site.origin);
    const connectOptions = { transports: ["webtransport", "websocket"] };
    await site.page.goto(site.origin);
    await site.page.evaluate(() => delete (/** @type {any} */ (globalThis).WebTransport));
    await subscribe(site.page, node.url, "page/race", {}, undefined, connectOptions);
    assert.deepEqual(await events(site.page), [["connected", "websocket"]]);
    await blockWebSockets(site.page);
    await site.page.goto(site.origin);
    await subscribe(site.page, node.url, "page/race", {}, undefined, connectOptions);
    assert.deepEqual(await events(site.page), [["connected", "webtransport"]]);
    await publish(node, "page/race", 1);
    await waitUntil("the page is level", async () => (await received(site.page)).length === 1);
    assert.deepEqual(site.errors, []);
  },
);

test("node that shuts down tells pages over WebTransport why", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const site = await openSite(context);
  const node = await testbed.node("--origins", site.origin);
  await site.page.goto(site.origin);
  await subscribe(site.page, node.url, "page/end", {}, undefined, { transports: ["webtransport"] });
  await node.stop();
  await waitUntil("the page knows it", async () => (await events(site.page)).length > 1);
  const [, disconnected] = await events(site.page);
  assert.deepEqual(disconnected, ["disconnected", "the server is shutting down"]);
});
