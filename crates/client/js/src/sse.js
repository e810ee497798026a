// A connection over event streams (SSE), read with `fetch`: an `EventSource` can send no token. Loaded only when it
// is used.

import { createHttpConnection, toQuery } from "./http-connection.js";

/** @import { Connection, ConnectionEvents, Frame } from "./types.js" */
/** @import { HttpParts } from "./http-connection.js" */

/** Topics of a stream: what a node accepts. */
const TOPICS_MAX = 16;
/** A proxy that holds the events back brings nothing for much longer. */
const FIRST_BYTE_TIMEOUT = 5_000;

/**
 * @param {HttpParts} parts
 * @param {ConnectionEvents} events
 * @returns {Connection}
 */
export function openEventStreams(parts, events) {
  let streams = new AbortController();
  const http = createHttpConnection(parts, events, restart);
  http.signal.addEventListener("abort", () => streams.abort());

  /**
   * Browsers open six connections to a node without HTTP/2, so that topics share streams, and a change of them
   * begins all streams again.
   */
  function restart() {
    streams.abort();
    streams = new AbortController();
    /** @type {Map<string, string[]>} */
    const groups = new Map();
    for (const [topic, { from, delivery }] of http.topics) {
      // A stream has one delivery, and one start for the topics without a position.
      const start = typeof from === "object" && "position" in from ? "" : toQuery(from);
      const group = JSON.stringify([start, delivery && toQuery(delivery)]);
      groups.set(group, [...(groups.get(group) ?? []), topic]);
    }
    for (const topics of groups.values()) {
      while (topics.length) read(topics.splice(0, TOPICS_MAX), streams.signal);
    }
  }

  /** Reads one stream to its end. @param {string[]} names @param {AbortSignal} signal */
  async function read(names, signal) {
    const timer = setTimeout(() => http.fail(undefined, "no event in time"), FIRST_BYTE_TIMEOUT);
    try {
      const response = await http.get(`/sse?${query(names)}`, { signal });
      if (!response.ok || !response.body) {
        clearTimeout(timer);
        const error = await http.refuse(response, names);
        // Which of the topics it is shows when each has a stream of its own.
        if (names.length > 1 && !signal.aborted && !error.retry) for (const name of names) read([name], signal);
        return;
      }
      for await (const blocks of readBlocks(response.body)) {
        clearTimeout(timer);
        if (signal.aborted) return;
        http.receive({}, ":");
        for (const block of blocks) {
          const { name, data } = parse(block);
          if (data) handle(name, JSON.parse(data), data, names);
        }
      }
      if (!signal.aborted) http.fail(undefined, "the stream ended");
    } catch (error) {
      if (!signal.aborted) http.fail(undefined, String(error));
    } finally {
      clearTimeout(timer);
    }
  }

  /** @param {string[]} names */
  function query(names) {
    const { from, delivery } = /** @type {import("./http-connection.js").HttpSubscription} */ (
      http.topics.get(names[0])
    );
    const starts = names.map((name) => toQuery(http.topics.get(name)?.from ?? "now"));
    const parameters = names.map((name) => ["topic", name]);
    parameters.push(["from", typeof from === "object" && "position" in from ? starts.join() : starts[0]]);
    if (delivery) parameters.push(["delivery", toQuery(delivery)]);
    return new URLSearchParams(parameters);
  }

  /** @param {string} name @param {Frame} frame @param {string} text @param {string[]} names */
  function handle(name, frame, text, names) {
    const topic = names[frame.id - 1];
    const subscription = http.topics.get(topic ?? Object.values(frame)[0]?.topic);
    if (frame.error && subscription) {
      // The stream ends with it. The other topics go on in another one.
      http.end(topic, frame.error);
      http.change();
    } else if (frame.error) {
      http.fail(name === "expired" ? 4402 : undefined, frame.error.message);
    } else if (frame.close) {
      http.fail(frame.close.code, frame.close.reason);
    } else if (subscription && frame.subscribed) {
      begin(subscription, frame, text);
    } else {
      const position = frame.message?.position ?? frame.gap?.to;
      if (subscription && position) subscription.from = { position };
      http.receive(frame, text);
    }
  }

  /** @param {import("./http-connection.js").HttpSubscription} subscription @param {Frame} frame @param {string} text */
  function begin(subscription, frame, text) {
    const { topic, position } = frame.subscribed;
    // Later streams continue from there: nothing may be missed between two of them.
    if (subscription.from === "now" || position === "0:0") subscription.from = { position };
    // A topic that was live goes on. If it is still stale, this stream reports it again.
    if (subscription.isLive) http.receive({ live: { topic, position } }, text);
    else http.receive({ ...frame, id: subscription.id }, text);
    subscription.isLive = true;
  }

  http.begin();
  return http.connection;
}

/**
 * The whole blocks of each chunk of a stream: none for a comment.
 * @param {ReadableStream<Uint8Array>} body
 */
async function* readBlocks(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop() ?? "";
    yield blocks;
  }
}

/** The name and the data of an event; a block without data has none. @param {string} block */
function parse(block) {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  return { name, data };
}
