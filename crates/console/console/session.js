// The operator's session: the token, the data of the node, and the connection of the SDK.

import { connect } from "/sdk/index.js";

/** Where the token stays until the tab is closed. */
const STORAGE_KEY = "pushonce.console.token";

/** An answer of the node that is an error. */
export class DataError extends Error {
  /** @param {number} status 0 without an answer @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Whether a token, or another one, is needed. */
  get needsToken() {
    return this.status === 401 || this.status === 403;
  }
}

/** @type {string | undefined} */
let token = readStored();

/** Whether there is a token. */
export const hasToken = () => token !== undefined;

/** Uses a token from now on. It is sent in headers and frames, never in an address. @param {string | undefined} next */
export function setToken(next) {
  token = next;
  try {
    if (next === undefined) sessionStorage.removeItem(STORAGE_KEY);
    else sessionStorage.setItem(STORAGE_KEY, next);
  } catch {
    // Without storage, the token lives as long as the page.
  }
}

/**
 * Reads `/console/data/…`.
 * @param {string} page
 * @param {{ [name: string]: string | number }} parameters
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function read(page, parameters = {}, signal) {
  const query = new URLSearchParams(Object.entries(parameters).map(([name, value]) => [name, String(value)]));
  const headers = token === undefined ? undefined : { authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(`/console/data/${page}?${query}`, { headers, signal, cache: "no-store" });
  } catch (error) {
    throw new DataError(0, signal?.aborted ? "cancelled" : `the node does not respond (${error})`);
  }
  const body = await response.json().catch(() => undefined);
  if (response.ok && body) return body;
  throw new DataError(response.status, body?.error?.message ?? `the node answered ${response.status}`);
}

/** A connection of the SDK to this node, with the token of the operator. */
export function openClient() {
  // Only the origin of the page: its content security policy allows no other.
  return connect(location.origin, { token, transports: ["websocket", "sse", "long-poll"] });
}

function readStored() {
  try {
    return sessionStorage.getItem(STORAGE_KEY) ?? undefined;
  } catch {
    return undefined;
  }
}
