// Publishes without an outcome. Each is sent again, with its key, until it is acknowledged, rejected, or out of
// time. Pure.

import { createBackoff } from "./backoff.js";
import { PublishError } from "./errors.js";

/** @import { Emit, Frame } from "./types.js" */

/** Publishes without a reply in one connection: half of what a node allows. */
const IN_FLIGHT_MAX = 32;

/** Publishes that wait for their outcome; further ones are rejected. */
const PENDING_MAX = 1_000;

/**
 * @typedef {object} PendingPublish
 * @property {number} number
 * @property {Frame} publish the members of the request
 * @property {number} deadline
 * @property {number} retryAt when it may be sent
 * @property {number} [id] the request of this connection, while its reply is outstanding
 * @property {boolean} [mayBeStored] an attempt ended without a reply
 * @property {Frame} [error] the last reply
 */

/** @typedef {ReturnType<typeof createOutbox>} Outbox */

/**
 * @param {Emit} emit
 * @param {() => number} nextId
 * @param {() => number} random
 */
export function createOutbox(emit, nextId, random) {
  /** In the order of publishing. @type {PendingPublish[]} */
  let pending = [];
  // Far shorter than the delays between connections: a shard that moves is back in a second or two, and the caller
  // waits.
  const backoff = createBackoff(20, 500, random);
  let isOpen = false;

  /** @param {PendingPublish} entry @param {Frame} error */
  function fail(entry, { code, message, retry }) {
    const outcome = entry.mayBeStored || entry.id || code === "unknown" ? "unknown" : "rejected";
    settle(entry, new PublishError(outcome, code, message, outcome === "unknown" || !!retry, entry.publish.key));
  }

  /** @param {PendingPublish} entry @param {import("./types.js").Acknowledgement | PublishError} result */
  function settle(entry, result) {
    pending = pending.filter((other) => other !== entry);
    emit("settle", entry.number, result);
  }

  return {
    /** @param {number} number @param {Frame} publish @param {number} deadline */
    add(number, publish, deadline) {
      const entry = { number, publish, deadline, retryAt: 0 };
      pending.push(entry);
      if (pending.length > PENDING_MAX) {
        fail(entry, { code: "overloaded", message: "too many publishes", retry: true });
      }
    },

    /** A connection was opened or lost: replies of the one before do not come any more. @param {boolean} open */
    begin(open) {
      isOpen = open;
      for (const entry of pending) {
        if (!entry.id) continue;
        entry.id = undefined;
        entry.mayBeStored = true;
      }
    },

    /** The requests to send now. @param {number} now @returns {Frame[]} */
    takeRequests(now) {
      const room = IN_FLIGHT_MAX - pending.filter(({ id }) => id).length;
      const ready = pending.filter(({ id, retryAt }) => !id && retryAt <= now).slice(0, room);
      return ready.map((entry) => {
        entry.id = nextId();
        return { id: entry.id, publish: entry.publish };
      });
    },

    /** When to call `expire` or `takeRequests` again. @param {number} now */
    deadline(now) {
      const times = pending.map(({ id, retryAt, deadline }) =>
        isOpen && !id && retryAt > now ? Math.min(retryAt, deadline) : deadline,
      );
      return Math.min(...times);
    },

    /** Fails the publishes that are out of time. @param {number} now */
    expire(now) {
      for (const entry of pending.filter(({ deadline }) => deadline <= now)) {
        fail(entry, entry.error ?? { code: "unavailable", message: "no reply in time", retry: true });
      }
    },

    /** Fails every publish. @param {PublishError | import("./errors.js").PushonceError} error */
    close(error) {
      for (const entry of pending) fail(entry, error);
    },

    /** @param {Frame} frame a reply @param {number} now */
    onFrame({ id, published, error }, now) {
      const entry = pending.find((candidate) => id && candidate.id === id);
      if (!entry) return;
      entry.id = undefined;
      if (published?.durability) {
        backoff.reset();
        settle(entry, published);
      } else if (published) {
        fail(entry, { code: "unknown", message: "no durability" });
      } else if (error.retry || error.code === "unknown") {
        entry.error = error;
        entry.mayBeStored ||= error.code === "unknown";
        entry.retryAt = now + (error.back_ms ?? backoff.next());
      } else {
        fail(entry, error);
      }
    },
  };
}
