// The console in Chromium against real nodes: no console error, no request to another host, screenshots in target/pages.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Testbed, waitUntil } from "../../client/js/test/integration/nodes.js";
import { openBrowser, openPage, phoneOverflow, skip, takeScreenshots } from "./pages.js";
import { openSlowReader } from "./slow-reader.js";

async function publish(node, topic, value) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${node.url}/topics/${topic}`, { method: "POST", headers, body: JSON.stringify(value) });
  assert.equal(response.status, 200, `publish to ${topic}`);
  return response.json();
}

/** Waits until the text of the first element of a selector matches. */
async function waitForText(page, selector, pattern) {
  let text;
  const matches = async () => pattern.test((text = (await page.textContent(selector)) ?? ""));
  await waitUntil(`${selector} has ${pattern}`, matches).catch((error) => {
    throw new Error(`${error.message}; it has ${JSON.stringify(text)}`);
  });
}

/** Fails for an error in the console of the browser, for a request to another host, and for content that is too wide. */
async function assertClean({ page, errors, hosts }, node) {
  assert.deepEqual(errors, []);
  assert.deepEqual([...hosts], [node.address]);
  assert.equal(await phoneOverflow(page), 0, "the page is wider than a phone");
}

test("cluster page shows nodes, shards and rates, and reports a node that is killed", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const nodes = await testbed.cluster();
  const [node] = nodes;
  for (let i = 0; i < 30; i += 1) await publish(node, `chat/${i % 3}`, { text: `message ${i}` });
  const seen = await openPage(await openBrowser(context), `${node.url}/console`);
  const { page } = seen;
  await waitForText(page, "h1", /^All is well$/);
  await waitForText(
    page,
    ".facts",
    /3 of 3 nodes reachable · 16 of 16 shards with an owner · 3 replicas of each shard/,
  );
  assert.equal(await page.locator(".ring .shard").count(), 16);
  assert.equal(await page.locator(".regions tbody tr").count(), 3);
  const owned = await page.locator(".regions tbody tr td:nth-of-type(2)").allTextContents();
  assert.equal(
    owned.map(Number).reduce((sum, count) => sum + count),
    16,
  );
  // The samples before the page was opened are there too.
  const published = page.locator(".chart svg").first();
  await waitUntil("the chart shows the publishes", async () => {
    const summary = await published.getAttribute("aria-label");
    return /highest [1-9]/.test(summary ?? "");
  });
  await takeScreenshots(page, "console-cluster");

  await nodes[2].kill();
  await waitForText(page, "h1", /problem/);
  await waitForText(page, ".status", /too few replicas/);
  await waitForText(page, ".regions", /unreachable/);
  await waitForText(page, "#health", /problem/);
  await waitUntil("every shard has an owner", async () => {
    return /16 of 16 shards with an owner/.test((await page.textContent(".facts")) ?? "");
  });
  await takeScreenshots(page, "console-cluster-problem");
  await assertClean(seen, node);
});

test("topics are a tree of the whole cluster with a search by prefix and pages", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const nodes = await testbed.cluster();
  const [node] = nodes;
  const topics = Array.from({ length: 130 }, (_, i) => `chat/${String(i).padStart(3, "0")}`);
  topics.push("worldcup/2026/final/score", "worldcup/2026/final/clock", "worldcup/2026/semi/score", "worldcup", "news");
  for (const topic of topics) await publish(node, topic, { topic });
  const seen = await openPage(await openBrowser(context), `${nodes[1].url}/console/#/topics/`);
  const { page } = seen;
  await waitForText(page, "main", /135 topics/);
  const rows = page.locator(".topics tbody tr");
  assert.deepEqual(await rows.locator("th").allTextContents(), ["chat/", "news", "worldcupworldcup/"]);
  assert.deepEqual(await rows.locator("td:nth-of-type(1)").allTextContents(), ["130", "", "3"]);
  await waitUntil("the rate is known", async () =>
    (await page.textContent(".topics tbody tr:nth-child(2)"))?.includes("/s"),
  );
  await takeScreenshots(page, "console-topics");

  await page.click("text=chat/");
  await waitForText(page, "main", /130 topics with this prefix/);
  assert.equal(await rows.count(), 100);
  await page.click("text=Next page");
  await waitUntil("the second page is shown", async () => (await rows.count()) === 30);
  assert.equal(await rows.first().locator("th").textContent(), "100");

  await page.fill("#topic-prefix", "worldcup/2026/f");
  await waitForText(page, "main", /2 topics with this prefix/);
  assert.equal(new URL(page.url()).hash, "#/topics/worldcup/2026/f");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "topic-prefix");
  await page.click("text=final/");
  await page.click("text=clock");
  await waitForText(page, "h1", /^worldcup\/2026\/final\/clock$/);
  await waitForText(page, ".facts-list", /Position\d+:1/);
  await assertClean(seen, nodes[1]);
});

test("topic page reads live and from the past, pauses, filters, publishes and explains", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const node = await testbed.node();
  const topic = "match/final/score";
  for (let i = 1; i <= 5; i += 1) await publish(node, topic, { goal: i });
  const seen = await openPage(await openBrowser(context), `${node.url}/console/#/topic/${topic}`);
  const { page } = seen;
  const messages = page.locator(".tail li:visible pre");
  const goals = async () => (await messages.allTextContents()).map((text) => JSON.parse(text).goal);
  const waitForGoals = (expected) =>
    waitUntil(`the tail shows ${expected}`, async () => JSON.stringify(await goals()) === JSON.stringify(expected));
  await waitForGoals([5, 4, 3, 2, 1]);
  await publish(node, topic, { goal: 6 });
  await waitForGoals([6, 5, 4, 3, 2, 1]);

  await page.click("text=Pause");
  await publish(node, topic, { goal: 7 });
  await waitForText(page, ".facts-list", /Position\d+:7/);
  assert.deepEqual(await goals(), [6, 5, 4, 3, 2, 1]);
  await page.click("text=Continue");
  await waitForGoals([7, 6, 5, 4, 3, 2, 1]);

  await page.fill("#tail-filter", '"goal":3');
  await waitForGoals([3]);
  await page.fill("#tail-filter", "");
  const text = await page.locator(".tail li strong").nth(2).textContent();
  await page.fill("#tail-start", text ?? "");
  await page.click("text=Go");
  await waitForGoals([7, 6]);
  await page.fill("#tail-start", "yesterday");
  await page.click("text=Go");
  await waitForText(page, "section[aria-labelledby=tail-title]", /"yesterday" is no start/);
  await page.fill("#tail-start", "start");
  await page.click("text=Go");

  await page.fill("#publish-body", '{"goal": 8, "text": "<img src=x onerror=alert(1)>"}');
  await page.click("form.publish button");
  await waitForText(page, ".outcome", /^✓ Acknowledged at \d+:8, replicated/);
  await waitForGoals([8, 7, 6, 5, 4, 3, 2, 1]);
  assert.equal(await page.locator("main img").count(), 0);
  await page.fill("#publish-body", "not JSON");
  await page.click("form.publish button");
  await waitForText(page, ".outcome", /not JSON/);
  await waitForText(page, ".route", /Shard \d+.*owner.*this page/);
  await waitForText(page, ".facts-list", /Audience1 session/);
  await takeScreenshots(page, "console-topic");
  await assertClean(seen, node);
});

test("session that does not read is listed with its lag", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const node = await testbed.node();
  const seen = await openPage(await openBrowser(context), `${node.url}/console/#/sessions`);
  const { page } = seen;
  await waitForText(page, "main", /Every session keeps up/);
  await openSlowReader(context, node.address, "slow/1");
  // More than the socket buffers of both ends hold.
  const text = "x".repeat(60_000);
  const row = page.locator("tbody tr");
  for (let i = 0; i < 2_000 && !(await row.count()); i += 1) await publish(node, "slow/1", { i, text });
  await waitForText(page, "tbody tr", /does not read/);
  assert.match((await row.textContent()) ?? "", /websocketslow\/1.*127\.0\.0\.1:\d+/);
  assert.ok(Number((await row.locator("td.number").first().textContent())?.replaceAll(",", "")) >= 1);
  await takeScreenshots(page, "console-sessions");
  await assertClean(seen, node);
});

test("cluster with issuers asks for a token, which never is in an address", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const { flags, mint } = await testbed.issuer();
  const node = await testbed.node(...flags);
  const seen = await openPage(await openBrowser(context), `${node.url}/console/#/topic/chat/7`);
  const { page } = seen;
  await page.waitForSelector("#token");
  await takeScreenshots(page, "console-sign-in");
  await page.fill("#token", await mint("--subscribe", "chat/*"));
  await page.keyboard.press("Enter");
  await waitForText(page, "main", /This token does not open the console/);
  const token = await mint("--admin", "read", "--subscribe", "chat/*", "--publish", "chat/*");
  await page.fill("#token", token);
  await page.keyboard.press("Enter");
  await waitForText(page, "h1", /^chat\/7$/);
  await waitForText(page, "section[aria-labelledby=tail-title]", /Live after/);
  await page.fill("#publish-body", '"hello"');
  await page.click("form.publish button");
  await waitForText(page, ".outcome", /Acknowledged/);
  await waitForText(page, ".tail", /hello/);

  // The grants of the token hold for each topic.
  await page.goto(`${node.url}/console/#/topic/other`);
  await waitForText(page, "section[aria-labelledby=tail-title]", /not_allowed/);
  await page.fill("#publish-body", '"hello"');
  await page.click("form.publish button");
  await waitForText(page, ".outcome", /Rejected, not_allowed/);

  await page.reload();
  await waitForText(page, "h1", /^other$/);
  await page.click("text=Sign out");
  await page.waitForSelector("#token");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.ok(!seen.urls.some((url) => url.includes(token) || url.includes(token.split(".")[2])));
  // The browser reports each answer with the status 401 or 403.
  seen.errors = seen.errors.filter((error) => !/status of 40[13]/.test(error));
  await assertClean(seen, node);
});

test("console is used with the keyboard, and every field has a label", { skip }, async (context) => {
  const testbed = await Testbed.create(context);
  const node = await testbed.node();
  await publish(node, "chat/7", "hello");
  const seen = await openPage(await openBrowser(context), `${node.url}/console/`);
  const { page } = seen;
  // A single node has one replica of each shard.
  await waitForText(page, "#health", /1 problem/);
  const focused = () => page.evaluate(() => document.activeElement?.textContent);
  const order = [];
  for (let i = 0; i < 5; i += 1) {
    await page.keyboard.press("Tab");
    order.push(await focused());
    const outline = await page.evaluate(
      () => getComputedStyle(/** @type {Element} */ (document.activeElement)).outlineStyle,
    );
    assert.equal(outline, "solid", `the focus of ${order.at(-1)} is not visible`);
  }
  assert.deepEqual(order, ["Skip to content", "Cluster", "Topics", "Sessions", "! 1 problem"]);
  // The table is refreshed under the focus: the link stays the same element.
  await page.goto(`${node.url}/console/#/topics/chat/`);
  await page.focus("tbody a");
  await publish(node, "chat/7", "again");
  await waitForText(page, "tbody tr", /:2.*\/s/);
  assert.equal(await focused(), "7");
  await page.keyboard.press("Enter");
  await waitForText(page, "h1", /^chat\/7$/);

  for (const view of ["cluster", "topics/", "topic/chat/7", "sessions"]) {
    await page.goto(`${node.url}/console/#/${view}`);
    await page.waitForSelector("h1");
    const unnamed = await page.evaluate(() => {
      const fields = [...document.querySelectorAll("input, textarea, select")];
      const isNamed = (field) => field.labels?.length || field.getAttribute("aria-label");
      return fields.filter((field) => !isNamed(field)).map((field) => field.outerHTML);
    });
    assert.deepEqual(unnamed, [], view);
    assert.equal(await page.locator("h1").count(), 1, view);
    assert.equal(await page.locator("nav a[aria-current=page]").count(), 1, view);
    const size = await page.evaluate(() => document.querySelectorAll("main, header, nav[aria-label]").length);
    assert.ok(size >= 3, view);
  }
  await assertClean(seen, node);
});
