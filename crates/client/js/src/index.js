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

/**
 * Connects to a cluster, and stays connected until `close()`: when a node or the network fails, the client connects
 * again, to another node if there is one, and every subscription continues where it stopped.
 * @param {string | URL | (string | URL)[]} url the address of a node, or of several: `https://push.example.com`
 * @param {ConnectOptions} [options]
 * @returns {Client}
 */
export function connect(url, options = {}) {
  const { token, whenHidden, fetch = globalThis.fetch } = options;
  let { transports = ["webtransport", "websocket", "sse", "long-poll"] } = options;
  const urls = [url].flat().map(baseUrl);
  if (!urls.length) throw new TypeError("no address");
  const WebSocket = options.WebSocket ?? globalThis.WebSocket;
  if (transports.includes("websocket") && !WebSocket) {
    throw new TypeError("no WebSocket here: give { WebSocket }");
  }
  const getToken = typeof token === "function" ? token : options.getToken;
  const key = urls.join();
  const now = monotonic();
  const first = recall(key, now());
  let races = false;
  if (transports.includes("websocket")) {
    // Both are one step of the session: the better one is known when it is open.
    races = transports.includes("webtransport") && "WebTransport" in globalThis && first !== "websocket";
    transports = transports.filter((name) => name !== "webtransport");
  }
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
      if (transport === "websocket") {
        const connection = openWebSocket(address, WebSocket, events, first === transport ? () => {} : store);
        if (races) {
          import("./webtransport.js").then(
            ({ race }) => race(connection, address, events, request, toBytes, store, options.webTransport),
            () => {},
          );
        }
        return connection;
      }
      const opening = (transport === "webtransport" ? import("./webtransport.js") : import("./fallback.js")).then(
        ({ open }) => open(transport, address, events, request, httpError, toBytes, store, options.webTransport),
      );
      opening.catch((error) => events.closed(undefined, String(error)));
      return {
        send: (frame) => opening.then((connection) => connection.send(frame)),
        close: () => opening.then((connection) => connection.close()).catch(() => {}),
      };
    },
    getToken,
    fetch: request,
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
