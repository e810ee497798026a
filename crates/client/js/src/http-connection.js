// A connection over HTTP requests, for networks where no WebSocket passes. It speaks the frames of a session: what
// a WebSocket sends to the node, it turns into requests. Loaded only when it is used.

/** @import { Connection, ConnectionEvents, Frame } from "./types.js" */
/** @import { PushonceError } from "./errors.js" */

/**
 * A subscription, which begins again from `from` whenever its requests do.
 * @typedef {{ id: number, from: Frame | string, delivery?: any, isLive: boolean }} HttpSubscription
 */

/** @typedef {ReturnType<typeof createHttpConnection>} HttpConnection */

/**
 * What a connection needs.
 * @typedef {object} HttpParts
 * @property {string} url the address of the node
 * @property {typeof globalThis.fetch} fetch
 * @property {typeof import("./http-error.js").httpError} httpError
 * @property {typeof import("./payload.js").toBytes} toBytes
 */

/**
 * @param {HttpParts} parts
 * @param {ConnectionEvents} events
 * @param {() => void} onChange the subscriptions have changed, or may be dead: begin their requests again
 */
export function createHttpConnection({ url, fetch, httpError, toBytes }, events, onChange) {
  /** @type {Map<string, HttpSubscription>} */
  const topics = new Map();
  const closing = new AbortController();
  /** @type {string | undefined} */
  let token;
  let isChanged = false;

  /** The header with the token of now. @returns {Record<string, string>} */
  const authorization = () => (token === undefined ? {} : { authorization: `Bearer ${token}` });

  /** Requests that follow each other in one turn begin together. */
  function change() {
    if (isChanged) return;
    isChanged = true;
    queueMicrotask(() => {
      isChanged = false;
      if (!closing.signal.aborted) onChange();
    });
  }

  /** @param {number | undefined} id @param {Frame} publish */
  async function publish(id, { topic, key, data, encoding, content_type: contentType }) {
    const isText = typeof data === "string" && contentType !== "application/json";
    const binaryType = contentType ?? "application/octet-stream";
    const type = encoding ? binaryType : (contentType ?? (isText ? "text/plain" : "application/json"));
    const body = encoding ? toBytes(data) : isText ? data : JSON.stringify(data);
    try {
      const headers = { "content-type": type, "idempotency-key": key, ...authorization() };
      const response = await fetch(url + topicPath(topic), { method: "POST", headers, body, signal: closing.signal });
      if (response.ok) reply({ id, published: await response.json() });
      else reply({ id, error: toFrame(await httpError(response)) });
    } catch (error) {
      // It may have arrived.
      reply({ id, error: { code: "unknown", message: String(error), retry: true } });
    }
  }

  /** @param {Frame} frame */
  const reply = (frame) => closing.signal.aborted || events.frame(frame, "reply");

  return {
    topics,
    signal: closing.signal,
    change,

    /** Opens the connection once the node answers: a node that is down must not look like a connection. */
    async begin() {
      try {
        await fetch(`${url}/sse`, { method: "OPTIONS", signal: closing.signal });
        if (!closing.signal.aborted) events.opened();
      } catch (error) {
        this.fail(undefined, String(error));
      }
    },

    /** A request with the token of now. @param {string} path @param {RequestInit} init */
    get: (path, init = {}) =>
      fetch(url + path, { cache: "no-store", ...init, headers: { ...init.headers, ...authorization() } }),

    /** What a request brought. @param {Frame} frame @param {string} text */
    receive: (frame, text) => closing.signal.aborted || events.frame(frame, text),

    /** The connection has failed. @param {number} [code] @param {string} [reason] */
    fail(code, reason) {
      if (closing.signal.aborted) return;
      closing.abort();
      events.closed(code, reason);
    },

    /**
     * A request for topics was refused. An error of one topic ends its subscription, and every other one the
     * connection.
     * @param {Response} response
     * @param {string[]} names
     */
    async refuse(response, names) {
      const error = await httpError(response);
      const { code, message } = error;
      if (response.status === 401 && token !== undefined) this.fail(code === "token_expired" ? 4402 : 4401, message);
      else if (error.retry || response.status === 429) this.fail(4503, message);
      else if (names.length === 1) this.end(names[0], error);
      return error;
    },

    /** The node refuses a topic. @param {string} topic @param {PushonceError | Frame} error */
    end(topic, error) {
      const subscription = topics.get(topic);
      if (!subscription) return undefined;
      if (error.retry && subscription.isLive) return this.fail(undefined, error.message);
      topics.delete(topic);
      reply({ id: subscription.isLive ? undefined : subscription.id, error: toFrame(error) });
      if (subscription.isLive) reply({ unsubscribed: { topic } });
      return undefined;
    },

    /** @type {Connection} */
    connection: {
      send({ id, authenticate, subscribe, unsubscribe, publish: message }) {
        if (authenticate) {
          token = authenticate.token;
          // The first request with the token tells whether it is valid.
          queueMicrotask(() => closing.signal.aborted || events.frame({ id, authenticated: {} }, ""));
        } else if (subscribe) {
          topics.set(subscribe.topic, { id, from: subscribe.from, delivery: subscribe.delivery, isLive: false });
          change();
        } else if (unsubscribe) {
          // A topic that is not there is a probe of the connection.
          topics.delete(unsubscribe.topic);
          change();
        } else {
          publish(id, message);
        }
      },
      close: () => closing.abort(),
    },
  };
}

/** The path of a topic. @param {string} topic */
export const topicPath = (topic) => `/topics/${topic.split("/").map(encodeURIComponent).join("/")}`;

/** @param {PushonceError | Frame} error */
const toFrame = ({ code, message, retry }) => ({ code, message, retry });

/** A start or a delivery as in a query, such as `last:10` or `rate:2`. @param {Frame | string} value */
export function toQuery(value) {
  if (typeof value === "string") return value;
  const [[name, argument]] = Object.entries(value);
  return name === "position" ? argument : `${name}:${argument}`;
}
