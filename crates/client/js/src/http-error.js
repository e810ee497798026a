// Errors of HTTP responses.

import { PushonceError } from "./errors.js";

/** @import { Frame } from "./types.js" */

/** The error of a response. @param {Response} response */
export async function httpError(response) {
  /** @type {Frame} */
  const { error = {} } = await response.json().catch(() => ({}));
  const { code = "unavailable", message = `HTTP ${response.status}`, retry = response.status >= 429 } = error;
  return new PushonceError(code, message, retry);
}
