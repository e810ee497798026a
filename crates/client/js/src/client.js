// A client: carries out the effects of its session, with real connections, timers and the page.

import { PublishError, PushonceError } from "./errors.js";
import { Listeners } from "./events.js";
import { watchPage } from "./page.js";
import { encode, toBytes } from "./payload.js";
import { createSession } from "./session.js";
import { Subscription } from "./subscription.js";

/** @import { Acknowledgement, ClientEvents, PublishOptions, Snapshot, SubscribeOptions } from "./types.js" */
/** @import { Connection, ConnectionEvents, Effects, TokenProvider, TransportName } from "./types.js" */
/** @import { Session, SessionOptions } from "./session.js" */

/** Longer than a shard needs to get a new owner (2 s) and than the node's own deadline (5 s). */
const PUBLISH_TIMEOUT = 8_000;
/** No timer is longer: some runtimes warn about long ones, and a device that sleeps stops them. */
const TIMER_MAX = 60_000;

/**
 * @typedef {object} ClientParts
 * @property {SessionOptions} session
 * @property {(transport: TransportName, url: string, events: ConnectionEvents) => Connection} open
 * @property {TokenProvider} [getToken]
 * @property {typeof globalThis.fetch} fetch
 * @property {typeof import("./http-error.js").httpError} httpError
 * @property {() => number} now
 */

/** @typedef {{ resolve: (acknowledgement: Acknowledgement) => void, reject: (error: unknown) => void }} Settle */

/**
 * The events of a session.
 * @typedef {Exclude<keyof Session, "phase" | "url" | "takeEffects" | "deadline">} SessionEvent
 */

/** @template {unknown[]} P @typedef {P extends [any, ...infer Rest] ? Rest : never} AfterNow */

/** A client of a cluster: one connection, which moves from node to node as needed. Made by `connect()`. */
export class Client {
  /** @type {ClientParts} */
  #parts;
  /** @type {Session} */
  #session;
  /** @type {Listeners<ClientEvents>} */
  #listeners = new Listeners();
  /** @type {Map<string, Subscription>} */
  #subscriptions = new Map();
  /** @type {Map<number, Settle>} */
  #publishes = new Map();
  #publishCount = 0;
  /** @type {Connection | undefined} */
  #connection;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #isRunning = false;
  /** @type {string | undefined} */
  #token;
  /** What the application was asked for last. @type {string | Promise<string> | undefined} */
  #asked;
  #stopWatching;

  /** @internal @param {ClientParts} parts */
  constructor(parts) {
    this.#parts = parts;
    this.#token = parts.session.token;
    this.#session = createSession(parts.session);
    this.#stopWatching = watchPage(
      (isHidden) => this.#run("setHidden", isHidden),
      (isOtherNetwork) => this.#run("wake", isOtherNetwork),
    );
    this.#run("tick");
  }

  /** `waiting` for the next attempt, waiting for a `token`, `opening` a connection, `open`, or `closed`. */
  get state() {
    return this.#session.phase();
  }

  /** The address of the node in use, or of the next one. */
  get url() {
    return this.#session.url();
  }

  /**
   * Adds a listener. Returns a function that removes it.
   * @template {keyof ClientEvents} N
   * @param {N} name
   * @param {(value: ClientEvents[N]) => unknown} listener
   * @returns {() => void}
   */
  on(name, listener) {
    return this.#listeners.add(name, listener);
  }

  /**
   * Subscribes to a topic. A client has one subscription to a topic at a time.
   * @param {string} topic
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  subscribe(topic, options = {}) {
    if (this.state === "closed") throw new PushonceError("closed", "the client is closed");
    if (this.#subscriptions.has(topic)) throw new PushonceError("already_subscribed", `${topic} is subscribed already`);
    const subscription = new Subscription(topic, {
      setPaused: (isPaused) => this.#run("setPaused", topic, isPaused),
      unsubscribe: () => {
        if (this.#subscriptions.get(topic) !== subscription) return;
        this.#subscriptions.delete(topic);
        this.#run("unsubscribe", topic);
      },
    });
    this.#subscriptions.set(topic, subscription);
    if (options.delta) this.#subscribeWithDeltas(subscription, options);
    else this.#run("subscribe", topic, options);
    return subscription;
  }

  /**
   * Publishes a message. Sent again, also over another node, until it is acknowledged: it is stored once.
   * @param {string} topic
   * @param {any} data a JSON value, a string, or bytes
   * @param {PublishOptions} [options]
   * @returns {Promise<Acknowledgement>} rejected with a `PublishError`, whose `outcome` is `rejected` or `unknown`
   */
  async publish(topic, data, { key = randomKey(), contentType, timeout = PUBLISH_TIMEOUT } = {}) {
    if (this.state === "closed") throw new PublishError("rejected", "closed", "the client is closed", false, key);
    const publish = { topic, key, ...encode(data, contentType) };
    const number = ++this.#publishCount;
    return new Promise((resolve, reject) => {
      this.#publishes.set(number, { resolve, reject });
      this.#run("publish", number, publish, timeout);
    });
  }

  /**
   * The newest message of a topic, over HTTP. A subscription from its position continues without a gap.
   * @param {string} topic
   * @returns {Promise<Snapshot>}
   */
  async snapshot(topic) {
    const { fetch, httpError } = this.#parts;
    const { fetchSnapshot } = await import("./snapshot.js");
    const token = this.#token ?? (await this.#asked);
    return fetchSnapshot(fetch, httpError, this.url, topic, token);
  }

  /**
   * Replaces the token, in the present connection as well: subscriptions continue without a gap.
   * @param {string} token
   */
  setToken(token) {
    this.#token = token;
    this.#run("token", token);
  }

  /** Ends all subscriptions and the connection. Publishes without an outcome are rejected. */
  close() {
    this.#run("close");
  }

  /** @param {Subscription} subscription @param {SubscribeOptions} options */
  async #subscribeWithDeltas(subscription, options) {
    // Without the module, messages come whole.
    const module = await import("./delta.js").catch(() => undefined);
    const { topic } = subscription;
    if (this.#subscriptions.get(topic) === subscription)
      this.#run("subscribe", topic, options, module?.createDeltaDecoder(toBytes));
  }

  /**
   * Gives an event to the session, and carries out what follows.
   * @template {SessionEvent} N
   * @param {N} name
   * @param {AfterNow<Parameters<Session[N]>>} args
   */
  #run(name, ...args) {
    const { now } = this.#parts;
    /** @type {any} */ (this.#session[name])(now(), ...args);
    // A listener calls this client: the loop that called the listener goes on with what follows.
    if (this.#isRunning) return;
    this.#isRunning = true;
    for (;;) {
      this.#session.tick(now());
      const effects = this.#session.takeEffects();
      if (!effects.length) break;
      for (const [effect, ...args] of effects) /** @type {any} */ (this.#handlers[effect])(...args);
    }
    this.#isRunning = false;
    clearTimeout(this.#timer);
    const wait = this.#session.deadline(now()) - now();
    if (wait < Infinity) this.#timer = setTimeout(() => this.#run("tick"), Math.min(Math.max(wait, 0), TIMER_MAX));
  }

  /** Carries out effects. @type {{ [N in keyof Effects]: (...args: Effects[N]) => unknown }} */
  #handlers = {
    open: (transport, url) => {
      /** @type {Connection | undefined} */
      let connection;
      // What a connection reports after its end is ignored.
      const isCurrent = () => connection === this.#connection;
      connection = this.#connection = this.#connect(transport, url, {
        opened: (transport) => isCurrent() && this.#run("opened", transport),
        frame: (frame, text) => isCurrent() && this.#run("frame", frame, text),
        closed: (code, reason) => isCurrent() && this.#run("closed", code, reason),
      });
    },
    try: (transport, url) => {
      const connection = this.#connect(transport, url, {
        opened: () => {
          connection?.close();
          this.#run("tried", true);
        },
        frame: () => {},
        closed: () => this.#run("tried", false),
      });
    },
    disconnect: () => {
      this.#connection?.close();
      this.#connection = undefined;
    },
    send: (frame) => this.#connection?.send(frame),
    token: async (reason) => {
      try {
        this.#asked = this.#parts.getToken?.({ reason });
        const token = await this.#asked;
        if (typeof token !== "string") throw new TypeError("it is no string");
        this.setToken(token);
      } catch (error) {
        this.#run("tokenFailed", error);
      }
    },
    deliver: (topic, event, newestOnly) => this.#subscriptions.get(topic)?.deliver(event, newestOnly),
    end: (topic, error) => {
      const subscription = this.#subscriptions.get(topic);
      this.#subscriptions.delete(topic);
      subscription?.finish(error);
    },
    settle: (publish, result) => {
      const settle = this.#publishes.get(publish);
      this.#publishes.delete(publish);
      if (result instanceof PublishError) settle?.reject(result);
      else settle?.resolve(result);
    },
    report: (name, value) => {
      if (name === "closed") this.#stopWatching();
      this.#listeners.call(name, value);
    },
  };

  /** @param {TransportName} transport @param {string} url @param {ConnectionEvents} events */
  #connect(transport, url, events) {
    try {
      return this.#parts.open(transport, url, events);
    } catch (error) {
      queueMicrotask(() => events.closed(undefined, String(error)));
      return undefined;
    }
  }
}

/** 128 bits. `crypto.randomUUID` exists only on pages with TLS. */
const randomKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
