// The fallback transport that this page, or the one before it, had to use. Without storage, as in private windows,
// nothing is remembered.

/** @import { TransportName } from "./types.js" */

const KEY = "pushonce ";

/** @param {string} url @param {number} now @returns {TransportName | undefined} */
export function recall(url, now) {
  try {
    const [transport, until] = localStorage[KEY + url].split(" ");
    return until > now ? transport : undefined;
  } catch {
    return undefined;
  }
}

/** Forgets it when there is none. @param {string} url @param {TransportName} [transport] @param {number} [until] */
export function remember(url, transport, until) {
  try {
    if (transport) localStorage[KEY + url] = `${transport} ${until}`;
    else delete localStorage[KEY + url];
  } catch {
    // The next page begins with the best transport.
  }
}
