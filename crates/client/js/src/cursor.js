// The progress of one topic across connections, which determines where the next one resumes.

import { follows, isAfter } from "./position.js";

/** @import { Delivery, Gap, StartFrom } from "./types.js" */

/**
 * How a message relates to a cursor: the next one, one that was delivered before, or one after missing ones for
 * which no gap was received.
 * @typedef {"next" | "duplicate" | "hole"} Advance
 */

/** @typedef {ReturnType<typeof createCursor>} Cursor */

/** @param {StartFrom} start */
export function createCursor(start) {
  /** The last position that was delivered or reported as missing. @type {string | undefined} */
  let reached = typeof start === "object" && "position" in start ? start.position : undefined;
  /** The delivery of the present connection. @type {Delivery} */
  let delivery = "all";

  return {
    /** The start for the next connection. @returns {StartFrom} */
    resumeFrom: () => (reached === undefined ? start : { position: reached }),

    /** Whether a newer message replaces an older one. */
    isNewestOnly: () => delivery !== "all",

    /**
     * Records that the subscription is live and the topic was at `position`. Where no history was requested,
     * everything after it must be delivered, even before the first message arrives: otherwise the messages between
     * a disconnect and the next connection would be skipped. That applies to `now`, and to every start on a topic
     * without messages.
     * @param {string} position
     * @param {Delivery} granted
     */
    onSubscribed(position, granted) {
      delivery = granted;
      const expectsHistory = start === "start" || (typeof start === "object" && !("last" in start && start.last === 0));
      if (!expectsHistory || position === "0:0") reached ??= position;
    },

    /**
     * Classifies a message, and advances if it is the next.
     * @param {string} position
     * @returns {Advance}
     */
    advance(position) {
      if (reached !== undefined) {
        if (!isAfter(position, reached)) return "duplicate";
        if (delivery === "all" && !follows(position, reached)) return "hole";
      }
      reached = position;
      return "next";
    },

    /**
     * Records that messages up to the end of a gap will not come. Returns whether the gap is new.
     * @param {Gap} gap
     */
    skip({ to }) {
      const isNew = reached === undefined || isAfter(to, reached);
      if (isNew) reached = to;
      return isNew;
    },
  };
}
