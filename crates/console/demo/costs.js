// What the site would do in the four designs. No DOM.

/** Seconds between two requests of a page that polls. */
export const POLL_SECONDS = 2;

/** @typedef {"reload" | "poll" | "push" | "once"} Design */

/**
 * What the site has done for a number of viewers: it answers each reload and each poll, sends each message to each
 * viewer, or publishes each message once.
 * @param {{ changes: number, viewers: number, seconds: number }} measured
 * @returns {Record<Design, number>}
 */
export function siteWork({ changes, viewers, seconds }) {
  return {
    reload: changes * viewers,
    poll: (viewers * seconds) / POLL_SECONDS,
    push: changes * viewers,
    once: changes,
  };
}
