// The one connection of this page: the JavaScript SDK, with a subscription to all events and one to each match that
// is on.

import { connect } from "/sdk/index.js";

import { topicOf } from "./matches.js";
import { Received } from "./received.js";

export const LIVE = "worldcup/2026/live";
const WALL = "worldcup/2026/wall";

/** @typedef {import("./matches.js").PublishedState} PublishedState */
/** @typedef {{ live: string, matches: PublishedState[] }} Wall */

/**
 * What the page receives.
 * @typedef {object} FeedEvents
 * @property {(state: PublishedState, topic: string, kind: "history" | "late" | "live") => void} message `history`: from
 *   before this page was loaded; `late`: published while the page was not connected
 * @property {(count: number) => void} audience
 * @property {(text: string) => void} notice something that a visitor must know about the messages
 * @property {() => void} state the connection has changed
 */

/**
 * The state of the tournament, and where to go on. The browser has begun this request before the modules came; it is
 * the same one as that of `client.snapshot()`.
 * @returns {Promise<Wall | undefined>} nothing while the cluster forms
 */
export async function loadWall() {
  const response = await fetch(`/topics/${WALL}`);
  return response.ok ? response.json() : undefined;
}

export class Feed {
  #client;
  #events;
  /** @type {Map<string, import("/sdk/index.js").Subscription>} */
  #matches = new Map();
  /** The newest position of each topic when it was subscribed last. @type {Map<string, { head: string, isFirst: boolean }>} */
  #starts = new Map();
  #stale = new Set();
  received = new Received();
  /** @type {"connecting" | "live" | "waiting" | "closed"} */
  state = "connecting";
  transport = "";
  /** Connections to a node so far. */
  connections = 0;

  /**
   * @param {string[]} urls
   * @param {FeedEvents} events
   * @param {string[] | undefined} transports
   */
  constructor(urls, events, transports) {
    this.#events = events;
    this.#client = connect(urls, transports ? { transports: /** @type {any} */ (transports) } : {});
    this.#client.on("connected", ({ transport }) => {
      performance.mark("demo-connected");
      this.connections += 1;
      this.transport = transport;
      this.#setState("live");
    });
    this.#client.on("disconnected", () => {
      this.#stale.clear();
      this.#setState("waiting");
    });
    this.#client.on("closed", (error) => {
      this.#events.notice(`The connection has ended: ${error?.message ?? "closed"}`);
      this.#setState("closed");
    });
  }

  /** The address of the node in use, or of the next one. */
  get url() {
    return this.#client.url;
  }

  /** Whether the node has lost contact with the owner of a topic. */
  get isStale() {
    return this.#stale.size > 0;
  }

  /** The state of the tournament, from the node that the client uses. @returns {Promise<Wall | undefined>} */
  async snapshot() {
    return (await this.#client.snapshot(WALL)).data;
  }

  /** Receives all events after a position. @param {string} position */
  follow(position) {
    const subscription = this.#subscribe(LIVE, { from: { position }, audience: true });
    subscription.on("audience", ({ count }) => this.#events.audience(count));
  }

  /** Receives the clocks of the matches that are on, and of no others. @param {number[]} numbers */
  followMatches(numbers) {
    const wanted = new Set(numbers.map(topicOf));
    for (const [topic, subscription] of this.#matches) {
      if (wanted.has(topic)) continue;
      subscription.unsubscribe();
      this.received.end(topic);
      this.#matches.delete(topic);
      this.#starts.delete(topic);
      this.#stale.delete(topic);
    }
    for (const topic of wanted) {
      if (!this.#matches.has(topic)) this.#matches.set(topic, this.#subscribe(topic, { from: { last: 1 } }));
    }
  }

  /** @param {string} topic @param {import("/sdk/index.js").SubscribeOptions} options */
  #subscribe(topic, options) {
    const subscription = this.#client.subscribe(topic, options);
    subscription.on("subscribed", ({ position, recovered }) => {
      if (topic === LIVE && !this.#starts.has(topic)) performance.mark("demo-subscribed");
      if (!recovered && this.#starts.has(topic)) this.#events.notice(`${topic}: older messages are gone`);
      this.#starts.set(topic, { head: position, isFirst: !this.#starts.has(topic) });
    });
    subscription.on("message", ({ data, position }) => {
      this.received.onMessage(topic, position);
      this.#events.message(data, topic, this.#kindOf(topic, position));
    });
    subscription.on("gap", ({ from, to, reason }) => {
      this.#events.notice(`${topic}: ${from} to ${to} are missing (${reason})`);
    });
    subscription.on("stale", () => {
      this.#stale.add(topic);
      this.#events.state();
    });
    subscription.on("live", () => {
      this.#stale.delete(topic);
      this.#events.state();
    });
    subscription.on("error", (error) => this.#events.notice(`${topic}: ${error.message}`));
    return subscription;
  }

  /** @param {string} topic @param {string} position @returns {"history" | "late" | "live"} */
  #kindOf(topic, position) {
    const start = this.#starts.get(topic);
    if (!start) return "history";
    if (isAfter(position, start.head)) return "live";
    return start.isFirst ? "history" : "late";
  }

  /** @param {Feed["state"]} state */
  #setState(state) {
    this.state = state;
    this.#events.state();
  }
}

/** Compares `epoch:offset`. @param {string} a @param {string} b */
function isAfter(a, b) {
  const [epochA, offsetA] = a.split(":").map(BigInt);
  const [epochB, offsetB] = b.split(":").map(BigInt);
  return epochA > epochB || (epochA === epochB && offsetA > offsetB);
}
