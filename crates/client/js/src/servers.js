// Which node to connect to next, over which transport, and when. Pure.

import { createBackoff } from "./backoff.js";

/** @import { TransportName } from "./types.js" */

/**
 * Failures to open a connection after which another transport is tried. A node that is down must not look like a
 * blocked transport.
 */
const FAILURES_MAX = 2;

/** @typedef {ReturnType<typeof createServers>} Servers */

/**
 * @param {string[]} urls
 * @param {TransportName[]} transports best first
 * @param {() => number} random
 * @param {TransportName} [first] the transport to begin with
 */
export function createServers(urls, transports, random, first) {
  // Begins at any of them: the clients of a page all have the same list.
  const start = Math.floor(random() * urls.length);
  const servers = [...urls.slice(start), ...urls.slice(0, start)].map((url) => ({ url, notBefore: 0 }));
  const backoff = createBackoff(100, 5_000, random);
  let transport = Math.max(0, transports.indexOf(/** @type {TransportName} */ (first)));
  /** Connections in a row over this transport that brought nothing. */
  let failures = 0;

  return {
    url: () => servers[0].url,
    transport: () => transports[transport],
    hasOthers: () => servers.length > 1,

    /** Whether to begin again with the best transport: the network is another one. */
    resetTransport() {
      transport = failures = 0;
    },

    /** The current node is not contacted again for `delay`. @param {number} now @param {number} delay */
    avoid(now, delay) {
      servers[0].notBefore = now + delay;
    },

    /** A connection brought a frame. */
    onFrame() {
      failures = 0;
    },

    /**
     * A connection serves everything that was asked for. Not earlier: a node that accepts connections and serves
     * nothing would be contacted again and again.
     */
    onComplete() {
      backoff.reset();
    },

    /**
     * A connection has ended, or was not opened. Returns when to open the next one.
     * @param {number} now
     * @param {boolean} isLater whether the node asked for time
     * @param {boolean} hadFrame whether the connection brought anything
     */
    next(now, isLater, hadFrame) {
      if (!hadFrame && ++failures >= Math.max(FAILURES_MAX, servers.length)) {
        failures = 0;
        transport = (transport + 1) % transports.length;
      }
      const delay = isLater ? backoff.long() : backoff.next();
      if (isLater) servers[0].notBefore = Math.max(servers[0].notBefore, now + delay);
      // The longest ago, unless it asked for time.
      servers.push(.../** @type {[typeof servers[0]]} */ (servers.splice(0, 1)));
      servers.sort((a, b) => Math.max(a.notBefore - now, 0) - Math.max(b.notBefore - now, 0));
      return Math.max(now + delay, servers[0].notBefore);
    },

    /** When the next connection may be opened at the earliest. */
    notBefore: () => servers[0].notBefore,
  };
}
