// Measures the demo page in Chromium. By hand, on a machine that does nothing else: `node test/latency.js`.
//
// 1. From publish to DOM change: the demo at its usual speed, one page, for a minute. The page subtracts the publish
//    time in the payload, which the publisher takes before it publishes, from the time right after it has changed the
//    document. Both clocks are that of this machine.
// 2. From the open socket to the first live message, in round trips: the same page behind proxies that delay every
//    byte by 200 ms in each direction. This program publishes to the topic of all events every 100 ms, so that the next
//    message is never far. Messages of the time between the snapshot and the subscription come first.

import { connect, createServer } from "node:net";

import { waitUntil } from "../../client/js/test/integration/nodes.js";
import { launch, openPage } from "./browser.js";
import { DemoProcess } from "./demo-process.js";

const MEASURE_MS = 60_000;
/** Long enough that the work of the machine hardly counts. */
const DELAY_MS = 200;
const LOADS = 12;
const PUBLISH_EVERY = 100;

/** A proxy that delays every byte. @param {string} url */
async function startDelayProxy(url) {
  const { hostname, port } = new URL(url);
  const server = createServer((client) => {
    const node = connect(Number(port), hostname);
    const pipe = (/** @type {import("node:net").Socket} */ from, /** @type {import("node:net").Socket} */ to) => {
      from.setNoDelay(true);
      from.on("data", (bytes) => setTimeout(() => to.writable && to.write(bytes), DELAY_MS));
      from.on("error", () => to.destroy()).on("close", () => setTimeout(() => to.destroy(), DELAY_MS));
    };
    pipe(client, node);
    pipe(node, client);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const address = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { host: `127.0.0.1:${address.port}`, close: () => server.close() };
}

/** @param {number[]} values @param {number} quantile */
const at = (values, quantile) => values.sort((a, b) => a - b)[Math.floor((values.length - 1) * quantile)];

async function measureLatency() {
  const demo = await DemoProcess.start("--loop");
  const browser = await launch();
  try {
    const { page } = await openPage(browser);
    await page.goto(demo.urls[0]);
    await page.locator("#connection[data-state=live]").waitFor();
    await page.waitForTimeout(MEASURE_MS);
    const figures = ["samples", "p50", "p95", "p99", "frame"].map(async (id) => {
      const text = await page.locator(`#${id}`).textContent();
      return `${id === "frame" ? "next frame p50" : id} ${text}`;
    });
    console.log(`publish to DOM change: ${(await Promise.all(figures)).join(", ")}`);
  } finally {
    await browser.close();
    await demo.stop();
  }
}

/** Publishes the state of a match again and again. @param {string} url */
async function publishSteadily(url) {
  const { matches } = await (await fetch(`${url}/topics/worldcup/2026/wall`)).json();
  return setInterval(() => {
    const body = JSON.stringify({ ...matches[0], event: "clock", published_ms: Date.now() });
    const headers = { "content-type": "application/json" };
    // One that fails is followed by the next.
    fetch(`${url}/topics/worldcup/2026/live`, { method: "POST", headers, body }).catch(() => {});
  }, PUBLISH_EVERY);
}

async function measureFirstMessage() {
  const demo = await DemoProcess.start("--loop");
  const publishing = await publishSteadily(demo.urls[0]);
  const proxies = await Promise.all(demo.urls.map(startDelayProxy));
  const rules = demo.urls.map((url, index) => `MAP ${new URL(url).host} ${proxies[index].host}`);
  const browser = await launch(`--host-resolver-rules=${rules.join(",")}`);
  try {
    /** @type {Record<string, number[]>} */
    const roundTrips = { "live subscription": [], "first message": [], "first message published after it": [] };
    for (let load = 0; load < LOADS; load += 1) {
      const { page, context } = await openPage(browser);
      await page.goto(demo.urls[load % 3]);
      const read = (/** @type {string} */ mark) =>
        page.evaluate((name) => performance.getEntriesByName(name)[0]?.startTime ?? Infinity, mark);
      await waitUntil("the first live message is shown", async () => (await read("demo-live")) < Infinity);
      const connected = await read("demo-connected");
      const [subscribed, history, live] = [
        await read("demo-subscribed"),
        await read("demo-history"),
        await read("demo-live"),
      ];
      [subscribed, Math.min(history, live), live].forEach((time, index) =>
        Object.values(roundTrips)[index].push((time - connected) / (2 * DELAY_MS)),
      );
      await context.close();
    }
    for (const [what, values] of Object.entries(roundTrips)) {
      const text = `p50 ${at(values, 0.5).toFixed(2)}, max ${at(values, 1).toFixed(2)}`;
      console.log(`socket open to ${what}, in round trips of ${2 * DELAY_MS} ms: ${text}`);
    }
  } finally {
    await browser.close();
    clearInterval(publishing);
    for (const proxy of proxies) proxy.close();
    await demo.stop();
  }
}

// One of the two: `node test/latency.js latency` or `… first`.
const [which] = process.argv.slice(2);
if (which !== "first") await measureLatency();
if (which !== "latency") await measureFirstMessage();
