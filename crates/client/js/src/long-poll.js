// A connection over long polls, for networks with a proxy that holds responses back until they end. Loaded only
// when it is used.

import { createHttpConnection, topicPath } from "./http-connection.js";

/** @import { Connection, ConnectionEvents, Frame } from "./types.js" */
/** @import { HttpParts, HttpSubscription } from "./http-connection.js" */

/** Messages of one response. */
const LIMIT = 100;

/**
 * @param {HttpParts} parts
 * @param {ConnectionEvents} events
 * @returns {Connection}
 */
export function openLongPolls(parts, events) {
  /** The subscriptions that are polled. @type {Map<HttpSubscription, AbortController>} */
  const polls = new Map();
  const http = createHttpConnection(parts, events, () => {
    const wanted = new Set(http.topics.values());
    for (const [subscription, poll] of polls) {
      if (wanted.has(subscription)) continue;
      poll.abort();
      polls.delete(subscription);
    }
    for (const [topic, subscription] of http.topics) {
      if (polls.has(subscription)) continue;
      const poll = new AbortController();
      polls.set(subscription, poll);
      run(topic, subscription, poll.signal);
    }
  });
  http.signal.addEventListener("abort", () => polls.forEach((poll) => poll.abort()));

  /** @param {string} topic @param {HttpSubscription} subscription @param {AbortSignal} signal */
  async function run(topic, subscription, signal) {
    try {
      const first = await request(topic, begin(subscription.from), signal);
      if (!first) return;
      let { position } = first;
      // The history begins later than at 0:0: that is where the subscription starts.
      if (subscription.from === "start") first.gap = undefined;
      const delivery = subscription.delivery ?? "all";
      subscription.isLive = true;
      http.receive({ id: subscription.id, subscribed: { topic, position, recovered: !first.gap, delivery } }, "page");
      if (subscription.from !== "now") position = deliver(delivery, first);
      while (!signal.aborted) {
        const page = await request(topic, `after=${position}&limit=${LIMIT}&live=long-poll`, signal);
        if (!page) return;
        position = deliver(delivery, page);
        if (delivery.rate && page.messages.length)
          await new Promise((resolve) => setTimeout(resolve, 1_000 / delivery.rate));
      }
    } catch (error) {
      if (!signal.aborted) http.fail(undefined, String(error));
    }
  }

  /**
   * One response: its messages, and the position to continue from. Nothing when the topic was refused.
   * @param {string} topic @param {string} query @param {AbortSignal} signal
   * @returns {Promise<{ position: string, messages: Frame[], gap?: Frame } | undefined>}
   */
  async function request(topic, query, signal) {
    const path = topicPath(topic);
    const response = await http.get(`${path}?${query}`, { signal });
    const position = response.headers.get("pushonce-position") ?? "0:0";
    if (signal.aborted) return undefined;
    http.receive({}, ":");
    if (response.status === 204) return { position, messages: [] };
    if (response.status === 410) return { position, messages: [], gap: { topic, ...gapBetween(query, position) } };
    if (!response.ok) {
      await http.refuse(response, [topic]);
      return undefined;
    }
    const body = await response.json();
    return { position, messages: body.messages ?? body };
  }

  /**
   * Delivers a page. Returns the position to continue from.
   * @param {any} delivery
   * @param {{ position: string, messages: Frame[], gap?: Frame }} page
   */
  function deliver(delivery, { position, messages, gap }) {
    if (gap) http.receive({ gap }, "page");
    for (const frame of delivery === "all" ? messages : messages.slice(-1)) http.receive(frame, JSON.stringify(frame));
    return position;
  }

  http.begin();
  return http.connection;
}

/** The query of the first request. @param {Frame | string} from */
function begin(from) {
  if (from === "start") return `after=0:0&limit=${LIMIT}`;
  if (typeof from === "string") return "last=1";
  return "last" in from ? `last=${from.last}` : `after=${from.position}&limit=${LIMIT}`;
}

/**
 * The gap after the position of a request, up to the one from which the history can be read.
 * @param {string} query
 * @param {string} to
 */
function gapBetween(query, to) {
  const [epoch, offset] = (new URLSearchParams(query).get("after") ?? to).split(":");
  const reason = to.startsWith(`${epoch}:`) ? "expired" : "epoch";
  return { from: `${epoch}:${BigInt(offset) + 1n}`, to, reason };
}
