// The interface of the package.

import { Client } from "./client.js";
import { httpError } from "./http-error.js";
import { recall, remember } from "./memory.js";
import { toBytes } from "./payload.js";
import { baseUrl } from "./urls.js";
import { openWebSocket } from "./websocket.js";

export { Client } from "./client.js";
export { Subscription } from "./subscription.js";
export { PublishError, PushonceError } from "./errors.js";

/** @import { TransportName } from "./types.js" */

/** @typedef {import("./types.js").Acknowledgement} Acknowledgement */
/** @typedef {import("./types.js").ClientEvents} ClientEvents */
/** @typedef {import("./types.js").ConnectOptions} ConnectOptions */
/** @typedef {import("./types.js").Delivery} Delivery */
/** @typedef {import("./types.js").Gap} Gap */
/** @typedef {import("./types.js").Message} Message */
/** @typedef {import("./types.js").PublishOptions} PublishOptions */
/** @typedef {import("./types.js").Snapshot} Snapshot */
/** @typedef {import("./types.js").StartFrom} StartFrom */
/** @typedef {import("./types.js").Subscribed} Subscribed */
/** @typedef {import("./types.js").SubscribeOptions} SubscribeOptions */
/** @typedef {import("./types.js").SubscriptionEvents} SubscriptionEvents */
/** @typedef {import("./types.js").TokenProvider} TokenProvider */
/** @typedef {import("./types.js").WebTransportOptions} WebTransportOptions */

/**
 * Connects to a cluster, and stays connected until `close()`: when a node or the network fails, the client connects
 * again, to another node if there is one, and every subscription continues where it stopped.
 * @param {string | URL | (string | URL)[]} url the address of a node, or of several: `https://push.example.com`
 * @param {ConnectOptions} [options]
 * @returns {Client}
 */
export function connect(url, options = {}) {
  const { token, whenHidden, fetch = globalThis.fetch } = options;
  const urls = [url].flat().map(baseUrl);
  if (!urls.length) throw new TypeError("no address");
  const key = urls.join();
  const now = monotonic();
  const first = recall(key, now());
  /** @type {TransportName[]} */
  const all = ["webtransport", "websocket", "sse", "long-poll"];
  // A page that is developed over HTTP needs no second connection.
  let transports = options.transports ?? all.slice(/^http:/.test(key) ? 1 : 0);
  const WebSocket = options.WebSocket ?? globalThis.WebSocket;
  let races = false;
  if (transports.includes("websocket")) {
    if (!WebSocket) throw new TypeError("no WebSocket here: give { WebSocket }");
    // Both are one step of the session, and the better one is known when it is open.
    races = transports.includes("webtransport") && "WebTransport" in globalThis && first !== "websocket";
    transports = transports.filter((name) => name !== "webtransport");
  }
  const getToken = typeof token === "function" ? token : options.getToken;
  // Called as a function: `fetch` of a browser refuses to be called as a method.
  /** @type {typeof globalThis.fetch} */
  const request = (input, init) => fetch(input, init);
  return new Client({
    session: {
      urls,
      transports,
      first,
      random: Math.random,
      token: typeof token === "string" ? token : undefined,
      canAsk: !!getToken,
      whenHidden,
    },
    open: (transport, address, events) => {
      const store = remember.bind(null, key);
      /** @type {import("./types.js").TransportParts} */
      const parts = { address, events, fetch: request, httpError, toBytes, store, options: options.webTransport };
      if (transport === "websocket") {
        const connection = openWebSocket(address, WebSocket, events, first === transport ? () => {} : store);
        if (races) import("./webtransport.js").then(({ race }) => race(connection, parts)).catch(() => {});
        return connection;
      }
      const opening = import("./fallback.js").then(({ open }) => open(transport, parts));
      opening.catch((error) => events.closed(undefined, String(error)));
      return {
        send: (frame) => opening.then((connection) => connection.send(frame)),
        close: () => opening.then((connection) => connection.close()).catch(() => {}),
      };
    },
    getToken,
    fetch: request,
    httpError,
    now,
  });
}

/** A clock that does not go back when the clock of the device is set back. */
function monotonic() {
  let offset = 0;
  let last = 0;
  return () => {
    const time = Date.now() + offset;
    if (time < last) offset += last - time;
    last = Math.max(time, last);
    return last;
  };
}
