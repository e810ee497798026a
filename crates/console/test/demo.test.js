// The demo page in Chromium, on a running demo.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Testbed, waitUntil } from "../../client/js/test/integration/nodes.js";
import { TcpProxy } from "../../client/js/test/integration/proxy.js";
import { launch, openPage, skip } from "./browser.js";
import { DemoProcess } from "./demo-process.js";

const TRANSPORTS = ["websocket", "sse", "webtransport"];
/** Messages that a page must receive to have moved. */
const SOME = 30;

/** @type {DemoProcess} */
let demo;
/** @type {import("playwright-core").Browser} */
let browser;

before(async () => {
  if (skip) return;
  demo = await DemoProcess.start("--loop");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await demo?.stop();
});

/** Opens the demo page and waits until it is live. @param {import("node:test").TestContext} context */
async function openDemo(context, { url = demo.urls[0], path = "/", within = browser, ...options } = {}) {
  const opened = await openPage(within, options);
  context.after(() => opened.context.close());
  await opened.page.goto(url + path);
  const demoPage = { ...opened, ...readers(opened.page) };
  await waitUntil("the page is live", async () => /^live from/.test(await demoPage.connection()));
  return demoPage;
}

/** What a page shows. @param {import("playwright-core").Page} page */
function readers(page) {
  const text = async (/** @type {string} */ id) => (await page.locator(`#${id}`).textContent()) ?? "";
  const number = async (/** @type {string} */ id) => Number((await text(id)).replaceAll(",", ""));
  return {
    text,
    connection: () => text("connection-text"),
    /** The number of the node that the page uses. */
    node: async () => Number(/node-(\d)/.exec(await text("connection-text"))?.[1]),
    received: () => number("received-count"),
    missed: () => number("missed-count"),
    late: () => number("late-count"),
    scores: () => page.locator(".tile").allTextContents(),
    stateOf: (/** @type {number} */ node) => page.locator(`.node[data-node="${node}"]`).getAttribute("data-state"),
    button: (/** @type {number} */ node) => page.locator(`.node[data-node="${node}"] button`),
  };
}

/** Waits until a page has received some more messages. @param {Awaited<ReturnType<typeof openDemo>>} page */
async function moves(page, count = SOME) {
  const before = await page.received();
  await waitUntil(`the page receives ${count} more messages`, async () => (await page.received()) >= before + count);
}

/** @param {Awaited<ReturnType<typeof openDemo>>} page */
async function assertClean(page) {
  assert.equal(await page.missed(), 0);
  assert.deepEqual(page.errors, []);
  const nodes = new Set(demo.urls.map((url) => new URL(url).host));
  assert.deepEqual(
    [...page.hosts].filter((host) => !nodes.has(host)),
    [],
  );
}

for (const transport of TRANSPORTS) {
  const path = `/?transports=${transport}`;

  test(`page moves over ${transport}, and shows everything at once after a reload`, { skip }, async (context) => {
    const page = await openDemo(context, { path });
    assert.match(await page.connection(), new RegExp(`${transport}$`));
    const before = await page.scores();
    assert.equal(before.length, 104);
    await moves(page);
    assert.notDeepEqual(await page.scores(), before);
    await waitUntil("a goal is announced", async () => /^Goal: .+\d′/.test(await page.text("announcement")));
    assert.ok((await page.page.locator("#goals li").count()) > 0);
    await waitUntil("the audience is shown", async () => /^[\d,]+ watching$/.test(await page.text("audience-text")));
    await waitUntil("the latency is shown", async () => /ms$/.test(await page.text("p50")));

    const isPlayed = (/** @type {string[]} */ scores) => scores.filter((score) => /\d–\d/.test(score)).length;
    const played = isPlayed(await page.scores());
    await page.page.reload();
    // The tournament may have begun again, in which nothing is played.
    await page.page.locator("html[data-ready]").waitFor();
    const after = isPlayed(await page.scores());
    assert.ok(after >= played || after < 8, `${after} matches after the reload, ${played} before`);
    await moves(page);
    await assertClean(page);
  });

  test(`page goes on over ${transport} when its node is killed, and brings it back`, { skip }, async (context) => {
    const page = await openDemo(context, { path });
    await moves(page);
    page.allowNetworkErrors();
    const own = await page.node();
    const others = [1, 2, 3].filter((node) => node !== own);

    // With the keyboard.
    await page.button(own).focus();
    await page.page.keyboard.press("Enter");
    await waitUntil("the node is down", async () => (await page.stateOf(own)) === "down");
    await waitUntil("the page is live at another node", async () => others.includes(await page.node()));
    await moves(page);
    await waitUntil("the other nodes own all shards", async () => {
      const { owners } = await demo.state(demo.urls[others[0] - 1]);
      return owners.every((owner) => others.some((node) => owner === `node-${node}`));
    });
    for (const node of others) assert.equal(await page.button(node).getAttribute("aria-disabled"), "true");
    await page.screenshot(`demo-node-down-${transport}`);
    const next = await page.node();
    assert.match(await page.text("node-log"), new RegExp(`This page went from node-${own} to node-${next}`));
    await assertClean(page);

    await page.button(own).click();
    await waitUntil("the node is up", async () => (await page.stateOf(own)) === "up");
    await waitUntil("the node owns shards again", async () =>
      (await demo.state()).owners.some((owner) => owner === `node-${own}`),
    );
    await moves(page);
    await assertClean(page);
    // A page can be loaded from it again, with everything.
    const again = await openDemo(context, { url: demo.urls[own - 1], path });
    await moves(again);
    await assertClean(again);
  });

  test(`hidden page that slept is level when it wakes, over ${transport}`, { skip }, async (context) => {
    const within = await launch();
    context.after(() => within.close());
    const page = await openDemo(context, { path, within });
    await moves(page);
    page.allowNetworkErrors();
    await page.page.evaluate(watchTimers);
    const awake = await sleep(page.page, within);
    await publishedMore(SOME);
    await awake();
    await moves(page);
    const pause = await page.page.evaluate(() => /** @type {any} */ (globalThis).longestPause);
    assert.ok(pause > 1_000, `the page slept for ${pause} ms`);
    await waitUntil("the page is live", async () => /^live from/.test(await page.connection()));
    await assertClean(page);
  });
}

// The proxies carry TCP only.
for (const transport of TRANSPORTS.filter((transport) => transport !== "webtransport")) {
  test(`page catches up over ${transport} when the network comes back`, { skip }, async (context) => {
    const startProxies = (/** @type {number[]} */ ports = []) =>
      Promise.all(demo.urls.map((url, index) => TcpProxy.start(new URL(url).host, ports[index])));
    let proxies = await startProxies();
    context.after(() => Promise.all(proxies.map((proxy) => proxy.stop())));
    const ports = proxies.map((proxy) => Number(new URL(proxy.url).port));
    const rules = demo.urls.map((url, index) => `MAP ${new URL(url).host} ${new URL(proxies[index].url).host}`);
    const within = await launch(`--host-resolver-rules=${rules.join(",")}`);
    context.after(() => within.close());
    const page = await openDemo(context, { path: `/?transports=${transport}`, within });
    await moves(page);
    page.allowNetworkErrors();

    // The browser does not apply this to WebSockets.
    await page.context.setOffline(true);
    await Promise.all(proxies.map((proxy) => proxy.stop()));
    await waitUntil("the page shows that it is offline", async () => /^disconnected/.test(await page.connection()));
    // The page shows its counts four times a second.
    await page.page.waitForTimeout(1_000);
    const before = await page.received();
    await publishedMore(SOME);
    assert.equal(await page.received(), before);

    proxies = await startProxies(ports);
    await page.context.setOffline(false);
    await waitUntil("the page is live", async () => /^live from/.test(await page.connection()));
    await moves(page);
    assert.ok((await page.late()) > 0, "messages of the time without a network arrived");
    await assertClean(page);
  });
}

/** In the page: measures the longest time without a timer. */
function watchTimers() {
  const page = /** @type {any} */ (globalThis);
  let last = performance.now();
  page.longestPause = 0;
  setInterval(() => {
    page.longestPause = Math.max(page.longestPause, performance.now() - last);
    last = performance.now();
  }, 50);
}

/**
 * Hides a page and stops its processes, as on a phone in a pocket. Headless Chromium hides no page by itself, so the page
 * learns it from the property and the event. Returns what wakes it.
 * @param {import("playwright-core").Page} page
 * @param {import("playwright-core").Browser} within a browser of its own
 */
async function sleep(page, within) {
  const setHidden = (/** @type {boolean} */ isHidden) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isHidden);
  await setHidden(true);
  const session = await within.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const renderers = processInfo.filter(({ type }) => type === "renderer");
  for (const { id } of renderers) process.kill(id, "SIGSTOP");
  return async () => {
    // Longer than the page shows as a pause otherwise.
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    for (const { id } of renderers) process.kill(id, "SIGCONT");
    await setHidden(false);
  };
}

/** Waits until the demo has published more. @param {number} count */
async function publishedMore(count) {
  const published = async () => (await demo.state()).counters.publishes;
  const before = await published();
  await waitUntil(`${count} more messages are published`, async () => (await published()) >= before + count);
}

test("only pages of the nodes stop a node, one at a time", { skip }, async () => {
  const post = (path, headers = {}) => fetch(demo.urls[0] + path, { method: "POST", headers });
  for (const origin of ["http://example.com", "http://127.0.0.1:7079", "null"]) {
    const response = await post("/demo/nodes/2/stop", { origin });
    assert.equal(response.status, 403, origin);
    assert.equal(response.headers.get("access-control-allow-origin"), null);
  }
  assert.equal((await post("/demo/nodes/4/stop")).status, 404);
  assert.equal((await post("/demo/nodes/2/restart")).status, 404);
  assert.equal((await post("/demo/nodes/2/start")).status, 409);
  assert.equal((await fetch(`${demo.urls[0]}/demo/nodes/2/stop`)).status, 405);

  const origin = demo.urls[2];
  const stopped = await post("/demo/nodes/2/stop", { origin });
  assert.equal(stopped.status, 202);
  assert.equal(stopped.headers.get("access-control-allow-origin"), origin);
  const second = await post("/demo/nodes/3/stop", { origin });
  assert.equal(second.status, 409);
  assert.match(await second.text(), /one at a time/);
  const isInState = async (/** @type {string} */ state) => (await demo.state()).nodes[1].state === state;
  await waitUntil("node 2 is down", () => isInState("down"));
  assert.equal((await post("/demo/nodes/2/start", { origin })).status, 202);
  await waitUntil("node 2 is up", () => isInState("up"));
});

test("node of `serve` has no page that stops it", { skip }, async (context) => {
  const node = await (await Testbed.create(context)).node();
  for (const path of ["/", "/demo/state", "/demo/demo.js"]) {
    assert.equal((await fetch(node.url + path)).status, 404, path);
  }
  assert.equal((await fetch(`${node.url}/demo/nodes/1/stop`, { method: "POST" })).status, 404);
  assert.equal((await fetch(`${node.url}/health/live`)).status, 200);
});

test("page is shown in light, in dark and on a phone", { skip }, async (context) => {
  const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
  const looks = {
    "demo-light": { colorScheme: "light" },
    "demo-dark": { colorScheme: "dark" },
    "demo-phone": phone,
    "demo-calm": { reducedMotion: "reduce" },
  };
  for (const [name, options] of Object.entries(looks)) {
    const page = await openDemo(context, options);
    await moves(page);
    const width = await page.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(width <= 0, `${name} is ${width} pixels too wide`);
    await page.screenshot(name);
    await assertClean(page);
  }
});

test("four designs are compared with the counters of the nodes", { skip }, async (context) => {
  const page = await openDemo(context);
  await page.page.locator("#viewers").selectOption("1000000");
  const work = async (/** @type {string} */ design) =>
    Number((await page.page.locator(`.${design} .work`).textContent())?.replaceAll(",", ""));
  await waitUntil("the counters are shown", async () => (await work("once")) > 0);
  const [reload, push, once] = await page.page.evaluate(() =>
    ["reload", "push", "once"].map((design) =>
      Number(document.querySelector(`.${design} .work`)?.textContent?.replaceAll(",", "")),
    ),
  );
  assert.equal(reload, once * 1_000_000);
  assert.equal(push, reload);
  await page.page.locator("#designs").scrollIntoViewIfNeeded();
  // A message flies in each of the pictures.
  for (const design of ["reload", "poll", "push", "once"]) {
    await page.page.locator(`.${design} .message`).first().waitFor({ state: "attached" });
  }
  await assertClean(page);
});
