// Pages of nodes in Chromium, and what tests record of them. Needs Debian's chromium, or another one named by CHROMIUM.

import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { chromium } from "playwright-core";

import { PATIENCE } from "../../client/js/test/integration/nodes.js";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SCREENSHOTS = process.env.SCREENSHOTS ?? join(import.meta.dirname, "../../../target/pages");

/** Why the tests are skipped, or `false`. */
export const skip = existsSync(CHROMIUM)
  ? false
  : `there is no ${CHROMIUM}: install Debian's chromium, or set CHROMIUM`;

const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };

/** A browser that ends with the test. @param {import("node:test").TestContext} context */
export async function openBrowser(context) {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  context.after(() => browser.close());
  return browser;
}

/**
 * A page of a node. `errors` has everything that the browser reports as an error, `hosts` every host that was asked,
 * `urls` every address.
 * @param {import("playwright-core").Browser} browser @param {string} url
 */
export async function openPage(browser, url) {
  const page = await browser.newPage({ viewport: DESKTOP });
  page.setDefaultTimeout(PATIENCE);
  const seen = { page, errors: [], hosts: new Set(), urls: [] };
  const record = (address) => {
    seen.urls.push(address);
    seen.hosts.add(new URL(address).host);
  };
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
  page.on("request", (request) => request.url().startsWith("data:") || record(request.url()));
  page.on("websocket", (socket) => record(socket.url()));
  await page.goto(url);
  return seen;
}

/** Keeps screenshots of the whole page: light, dark, and as wide as a phone. */
export async function takeScreenshots(page, name) {
  await mkdir(SCREENSHOTS, { recursive: true });
  const shots = [
    ["light", "light", DESKTOP],
    ["dark", "dark", DESKTOP],
    ["phone", "light", PHONE],
  ];
  for (const [suffix, colorScheme, viewport] of shots) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize(viewport);
    await page.screenshot({ path: join(SCREENSHOTS, `${name}-${suffix}.png`), fullPage: true });
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(DESKTOP);
}

/** How much wider the content is than a phone. */
export async function phoneOverflow(page) {
  await page.setViewportSize(PHONE);
  const overflow = await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  await page.setViewportSize(DESKTOP);
  return overflow;
}
