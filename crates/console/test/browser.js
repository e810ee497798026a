// A page in Chromium, and what went wrong in it.

import { existsSync } from "node:fs";
import { join } from "node:path";

import { chromium } from "playwright-core";

import { PATIENCE } from "../../client/js/test/integration/nodes.js";
import { OUTPUT } from "./demo-process.js";

export const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** Why the tests are skipped, if they are. `scripts/pages` makes that loud. */
export const skip = existsSync(CHROMIUM)
  ? false
  : `there is no ${CHROMIUM}: install Debian's chromium, or set CHROMIUM`;

/** @param {...string} args */
export const launch = (...args) => chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", ...args] });

/** What Chromium prints about requests to a node that is down, and to any while there is no network. */
const NETWORK_ERRORS = [
  /^Failed to load resource: net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INTERNET_DISCONNECTED|INCOMPLETE_CHUNKED_ENCODING|NETWORK_CHANGED|SOCKET_NOT_CONNECTED)/,
  /^WebSocket connection to '[^']*' failed: (Error in connection establishment: net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|INTERNET_DISCONNECTED|EMPTY_RESPONSE|NETWORK_CHANGED)|Connection closed before receiving a handshake response)/,
];

/**
 * Opens a page that records what it must not do.
 * @param {import("playwright-core").Browser} browser
 * @param {import("playwright-core").BrowserContextOptions} [options]
 */
export async function openPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 1000 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  /** @type {string[]} */
  const errors = [];
  /** @type {Set<string>} */
  const hosts = new Set();
  let allowsNetworkErrors = false;
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    const text = message.text();
    // On a busy machine the nodes cannot count in time, and the page asks again.
    if (/status of 503/.test(text) && message.location().url.endsWith("?audience")) return;
    if (allowsNetworkErrors && NETWORK_ERRORS.some((pattern) => pattern.test(text))) return;
    errors.push(`${message.type()}: ${text} (${message.location().url})`);
  });
  const addHost = (/** @type {string} */ url) => {
    const { protocol, host } = new URL(url);
    if (protocol !== "data:") hosts.add(host);
  };
  page.on("request", (request) => addHost(request.url()));
  page.on("websocket", (socket) => addHost(socket.url()));
  return {
    page,
    context,
    errors,
    hosts,
    /** From now on a node may be down, or the network away. */
    allowNetworkErrors: () => (allowsNetworkErrors = true),
    screenshot: (/** @type {string} */ name, fullPage = true) =>
      page.screenshot({ path: join(OUTPUT, `${name}.png`), fullPage }),
  };
}
