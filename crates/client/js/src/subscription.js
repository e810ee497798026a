// What the application holds of a subscription: events in order, and messages to iterate over.

import { PushonceError } from "./errors.js";
import { Listeners } from "./events.js";

/** @import { Message, Subscribed, SubscriptionEvent, SubscriptionEvents } from "./types.js" */

/**
 * Events that wait for the application. At this number the client ends the subscription at the node, and requests
 * it again from the position of the last one when half of them are left: the node keeps the messages, not the page.
 */
const EVENTS_MAX = 256;

/**
 * What a subscription asks of its client.
 * @typedef {object} SubscriptionControl
 * @property {(isPaused: boolean) => void} setPaused
 * @property {() => void} unsubscribe
 */

/** @typedef {{ resolve: (result: IteratorResult<Message, undefined>) => void, reject: (error: unknown) => void }} Waiter */

/**
 * A subscription to a topic. It continues across connections until `unsubscribe()`, without a missing or repeated
 * message; lost messages are reported as `gap`. Receive its messages with `for await`, or with `on("message", …)`.
 * @implements {AsyncIterable<Message>}
 */
export class Subscription {
  /** @type {Listeners<SubscriptionEvents>} */
  #listeners = new Listeners();
  /** Events that wait for the application. @type {SubscriptionEvent[]} */
  #queue = [];
  /** @type {Waiter[]} */
  #waiters = [];
  #isPaused = false;
  /**
   * Whether a loop has a message that it may still be working on: what follows waits until it asks for the next one.
   */
  #isLoopBusy = false;
  /** Set when the subscription is over. @type {{ error?: PushonceError, isReported?: boolean } | undefined} */
  #end;
  /** @type {SubscriptionControl} */
  #control;
  /** @type {(subscribed: Subscribed) => void} */
  #resolveSubscribed = () => {};
  /** @type {(error: unknown) => void} */
  #rejectSubscribed = () => {};

  /** @param {string} topic @param {SubscriptionControl} control */
  constructor(topic, control) {
    /** @readonly */
    this.topic = topic;
    /**
     * The position of the last message that the application received, or of the end of a gap after it. Store it to
     * continue later.
     * @type {string | undefined}
     */
    this.position = undefined;
    /**
     * Resolved when the subscription is live for the first time: every message after `position` follows. Rejected
     * when the node refuses it.
     * @readonly
     * @type {Promise<Subscribed>}
     */
    this.subscribed = new Promise((resolve, reject) => {
      this.#resolveSubscribed = resolve;
      this.#rejectSubscribed = reject;
    });
    // An application that takes the error from the loop or the event need not take it here as well.
    this.subscribed.catch(() => {});
    this.#control = control;
  }

  /**
   * Adds a listener. Returns a function that removes it.
   * @template {keyof SubscriptionEvents} N
   * @param {N} name
   * @param {(value: SubscriptionEvents[N]) => unknown} listener
   * @returns {() => void}
   */
  on(name, listener) {
    const remove = this.#listeners.add(name, listener);
    queueMicrotask(() => this.#drain());
    return remove;
  }

  /** Ends the subscription. Messages that wait are dropped, and loops over it end. */
  unsubscribe() {
    this.#queue = [];
    this.#control.unsubscribe();
    this.finish();
  }

  /** @returns {AsyncIterator<Message, undefined>} */
  [Symbol.asyncIterator]() {
    return {
      next: () =>
        new Promise((resolve, reject) => {
          this.#waiters.push({ resolve, reject });
          this.#isLoopBusy = false;
          this.#drain();
        }),
      return: async () => {
        this.unsubscribe();
        return { done: true, value: undefined };
      },
    };
  }

  /**
   * Takes an event of the client. With `newestOnly` a message replaces the one that waits before it.
   * @internal
   * @param {SubscriptionEvent} event
   * @param {boolean} [newestOnly]
   */
  deliver(event, newestOnly = false) {
    if (this.#end) return;
    if (newestOnly && event.type === "message" && this.#queue.at(-1)?.type === "message") this.#queue.pop();
    this.#queue.push(event);
    this.#drain();
    if (!this.#isPaused && this.#queue.length >= EVENTS_MAX) this.#setPaused(true);
  }

  /**
   * The subscription is over; what waits is delivered before.
   * @internal
   * @param {PushonceError} [error]
   */
  finish(error) {
    this.#end ??= { error };
    this.#drain();
  }

  /** @param {boolean} isPaused */
  #setPaused(isPaused) {
    this.#isPaused = isPaused;
    this.#control.setPaused(isPaused);
  }

  /** Hands out what waits, in order, as far as there is someone to take it. */
  #drain() {
    for (let event = this.#queue[0]; event; event = this.#queue[0]) {
      if (!this.#listeners.has("message") && (this.#isLoopBusy || (event.type === "message" && !this.#waiters.length)))
        return;
      this.#queue.shift();
      this.#handOut(event);
    }
    if (this.#end) this.#handOutEnd(this.#end);
  }

  /** @param {SubscriptionEvent} event */
  #handOut(event) {
    if (this.#isPaused && !this.#end && this.#queue.length <= EVENTS_MAX / 2) this.#setPaused(false);
    if (event.type === "message") {
      this.position = event.value.position;
      const waiter = this.#waiters.shift();
      this.#isLoopBusy = !!waiter;
      waiter?.resolve({ done: false, value: event.value });
    } else if (event.type === "gap") {
      this.position = event.value.to;
    } else if (event.type === "subscribed") {
      this.#resolveSubscribed(event.value);
    }
    this.#listeners.call(event.type, /** @type {any} */ (event.value));
  }

  /** @param {{ error?: PushonceError, isReported?: boolean }} end */
  #handOutEnd(end) {
    const { error } = end;
    for (const waiter of this.#waiters.splice(0)) {
      if (error) waiter.reject(error);
      else waiter.resolve({ done: true, value: undefined });
    }
    if (end.isReported) return;
    end.isReported = true;
    this.#rejectSubscribed(error ?? new PushonceError("closed", "the subscription has ended"));
    if (error) this.#listeners.call("error", error);
  }
}
