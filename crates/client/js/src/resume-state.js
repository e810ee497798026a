// The topics of a client with their progress, and the requests of the present connection. Pure.

import { createBackoff } from "./backoff.js";
import { createCursor } from "./cursor.js";
import { PushonceError } from "./errors.js";
import { decode } from "./payload.js";

/** @import { DeltaDecoder, Delivery, Emit, Frame, SubscribeOptions, SubscriptionEvents } from "./types.js" */

/** The subscription is not requested in this connection. */
const IDLE = 0;
/** The reply is outstanding. */
const REQUESTED = 1;
/** The node serves the topic. */
const LIVE = 2;

/**
 * @typedef {object} TopicSubscription
 * @property {string} topic
 * @property {SubscribeOptions} options
 * @property {import("./cursor.js").Cursor} cursor
 * @property {DeltaDecoder} [decoder]
 * @property {number} phase `IDLE`, `REQUESTED` or `LIVE`
 * @property {number} [id] the request
 * @property {boolean} [isPaused] the application is too slow: not requested until it has caught up
 * @property {boolean} isStale the node has lost contact with the topic's owner
 */

/** @typedef {ReturnType<typeof createResumeState>} ResumeState */

/**
 * @param {Emit} emit
 * @param {() => number} nextId the id of the next request of this connection
 * @param {() => number} random
 * @param {"pause" | { rate: number }} [whenHidden]
 */
export function createResumeState(emit, nextId, random, whenHidden) {
  /** @type {Map<string, TopicSubscription>} */
  const subscriptions = new Map();
  const backoff = createBackoff(100, 5_000, random);
  let isOpen = false;
  let isHidden = false;
  /** When to request topics again that the node could not serve. */
  let requestAt = 0;
  /** The last error without an id: the reason of an `unsubscribed` frame that follows. @type {Frame | undefined} */
  let lastError;

  /** @param {TopicSubscription} subscription */
  const isHeld = ({ isPaused }) => isPaused || (isHidden && whenHidden === "pause");

  const all = () => [...subscriptions.values()];

  /** @param {number} phase */
  const inPhase = (phase) => all().filter((subscription) => subscription.phase === phase && !isHeld(subscription));

  /**
   * @template {keyof SubscriptionEvents} N
   * @param {TopicSubscription} subscription
   * @param {N} type
   * @param {any} value
   */
  const deliver = ({ topic, cursor }, type, value) => emit("deliver", topic, { type, value }, cursor.isNewestOnly());

  /** Ends what the node sends of a topic; it can be requested again at once. @param {TopicSubscription} subscription */
  function release(subscription) {
    if (isOpen && subscription.phase) emit("send", { id: nextId(), unsubscribe: { topic: subscription.topic } });
    subscription.phase = IDLE;
    subscription.isStale = false;
  }

  /** @param {TopicSubscription} subscription @returns {Frame} */
  function request(subscription) {
    const { topic, cursor, decoder } = subscription;
    const { audience, delivery } = subscription.options;
    const hiddenRate = isHidden && typeof whenHidden === "object" && cursor.isNewestOnly() ? whenHidden : undefined;
    subscription.phase = REQUESTED;
    subscription.id = nextId();
    decoder?.reset();
    return {
      id: subscription.id,
      subscribe: {
        topic,
        from: cursor.resumeFrom(),
        delivery: hiddenRate ?? delivery,
        audience,
        delta: decoder && "fossil",
      },
    };
  }

  /** @param {TopicSubscription} subscription @param {PushonceError} [error] */
  function end({ topic }, error) {
    subscriptions.delete(topic);
    emit("end", topic, error);
  }

  return {
    /** @param {number} _now @param {string} topic @param {SubscribeOptions} options @param {DeltaDecoder} [decoder] */
    add(_now, topic, options, decoder) {
      subscriptions.set(topic, {
        topic,
        options,
        decoder,
        cursor: createCursor(options.from ?? "now"),
        phase: IDLE,
        isStale: false,
      });
    },

    /** @param {number} _now @param {string} topic */
    remove(_now, topic) {
      const subscription = subscriptions.get(topic);
      if (!subscription) return;
      release(subscription);
      end(subscription);
    },

    /**
     * Stops a topic until the application has caught up, or continues it.
     * @param {number} _now
     * @param {string} topic
     * @param {boolean} isPaused
     */
    setPaused(_now, topic, isPaused) {
      const subscription = subscriptions.get(topic);
      if (!subscription) return;
      subscription.isPaused = isPaused;
      if (isPaused) release(subscription);
    },

    /** @param {number} _now @param {boolean} hidden */
    setHidden(_now, hidden) {
      if (hidden === isHidden || !whenHidden) return;
      isHidden = hidden;
      for (const subscription of all()) {
        if (whenHidden === "pause" || subscription.cursor.isNewestOnly()) release(subscription);
      }
    },

    /** A connection was opened or lost: nothing is requested in it. @param {boolean} open */
    begin(open) {
      isOpen = open;
      requestAt = 0;
      lastError = undefined;
      for (const subscription of all()) {
        subscription.phase = IDLE;
        subscription.isStale = false;
      }
    },

    /** The requests that are to be sent now. @param {number} now @returns {Frame[]} */
    takeRequests(now) {
      if (now < requestAt) return [];
      return inPhase(IDLE).map(request);
    },

    /** When to call `takeRequests` again. @param {number} now */
    deadline: (now) => (isOpen && requestAt > now && inPhase(IDLE).length ? requestAt : Infinity),

    /** Whether this connection serves every topic. */
    isComplete: () => !inPhase(IDLE).length && !inPhase(REQUESTED).length,

    /** Whether a topic is stale at this node. */
    hasStale: () => all().some(({ isStale }) => isStale),

    /** Ends every subscription. @param {PushonceError} [error] */
    close(error) {
      for (const subscription of all()) end(subscription, error);
    },

    /**
     * Handles a frame about a topic. Returns why the connection must be left, if it must be.
     * @param {Frame} frame
     * @param {string} text the frame as it was received
     * @param {number} now
     * @returns {string | undefined}
     */
    onFrame(frame, text, now) {
      const [name, value] = Object.entries(frame).find(([member]) => member !== "id") ?? [];
      if (name === "error") return onError(frame, now);
      const subscription = subscriptions.get(value?.topic);
      if (!name || !subscription) return undefined;
      if (name === "subscribed" && frame.id === subscription.id) onSubscribed(subscription, value);
      // Before that, frames belong to an earlier subscription.
      else if (subscription.phase !== LIVE) return undefined;
      else if (name === "message") return onMessage(subscription, value, text);
      // Not a reply, which comes before the topic is live again: the node ended it.
      else if (name === "unsubscribed") end(subscription, toError(lastError));
      else if (name === "gap" ? subscription.cursor.skip(value) : name === "audience" || isChange(subscription, name)) {
        deliver(subscription, /** @type {keyof SubscriptionEvents} */ (name), value);
      }
      return undefined;
    },
  };

  /** @param {TopicSubscription} subscription @param {Frame} value */
  function onSubscribed(subscription, value) {
    const delivery = /** @type {Delivery} */ (value.delivery ?? "all");
    subscription.id = undefined;
    subscription.phase = LIVE;
    subscription.cursor.onSubscribed(value.position, delivery);
    if (!inPhase(IDLE).length) backoff.reset();
    deliver(subscription, "subscribed", { ...value, delivery });
  }

  /**
   * Whether a frame says that the topic is now stale, or live, and was not before.
   * @param {TopicSubscription} subscription
   * @param {string} name
   */
  function isChange(subscription, name) {
    const isStale = name === "stale";
    if (isStale === subscription.isStale || !(isStale || name === "live")) return false;
    subscription.isStale = isStale;
    return true;
  }

  /** @param {TopicSubscription} subscription @param {Frame} value @param {string} text */
  function onMessage(subscription, value, text) {
    const { topic, cursor, decoder } = subscription;
    let frame = value;
    if (decoder) {
      try {
        frame = decoder.decode(value, text);
      } catch (error) {
        // A new connection receives it whole.
        return `${topic}: ${error}`;
      }
    }
    const advance = cursor.advance(value.position);
    // A new connection receives the missing messages, or a gap.
    if (advance === "hole") return `${topic}: messages are missing before ${value.position}`;
    if (advance === "next") deliver(subscription, "message", decode(frame));
    return undefined;
  }

  /** @param {Frame} frame @param {number} now */
  function onError({ id, error }, now) {
    if (!id) lastError = error;
    const subscription = inPhase(REQUESTED).find((candidate) => candidate.id === id);
    if (!subscription) return undefined;
    subscription.phase = IDLE;
    if (!error.retry) {
      end(subscription, toError(error));
      return undefined;
    }
    requestAt = now + (error.back_ms ?? backoff.next());
    // One topic without an owner must not interrupt the others. A node that serves no topic is left for another.
    return inPhase(LIVE).length || inPhase(REQUESTED).length ? undefined : error.message;
  }

  /** @param {Frame} [error] */
  function toError({ code = "not_allowed", message = "the subscription has ended" } = {}) {
    return new PushonceError(code, message);
  }
}
