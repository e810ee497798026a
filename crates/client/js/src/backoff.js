// Delays between attempts: exponential, with full jitter.

/** @typedef {ReturnType<typeof createBackoff>} Backoff */

/**
 * Each delay is drawn between zero and a bound that doubles with each failure, from `initial` to `max`
 * milliseconds. Without jitter, all clients of a node that died would connect again at the same time, again and
 * again.
 * @param {number} initial
 * @param {number} max
 * @param {() => number} random from 0 to 1
 */
export function createBackoff(initial, max, random) {
  let failures = 0;
  return {
    /** Records a failure and returns the delay before the next attempt. */
    next: () => random() * Math.min(max, initial * 2 ** failures++),
    /** The delay after many failures, for a server that asked for time. */
    long: () => Math.max(initial, random() * max),
    /** Records a success. */
    reset: () => {
      failures = 0;
    },
  };
}
