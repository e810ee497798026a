// Which transport last worked, for the next page load. Without storage, as in private windows, nothing is remembered.

/** @import { TransportName } from "./types.js" */

const KEY = "pushonce.transport ";
const DAY = 86_400_000;

/** @param {string} url @param {number} now @returns {TransportName | undefined} */
export function recall(url, now) {
  try {
    const [transport, until] = localStorage[KEY + url].split(" ");
    return until > now ? transport : undefined;
  } catch {
    return undefined;
  }
}

/** @param {string} url @param {TransportName} transport @param {number} now */
export function remember(url, transport, now) {
  try {
    localStorage[KEY + url] = `${transport} ${now + DAY}`;
  } catch {
    // The next page begins with the best transport.
  }
}
