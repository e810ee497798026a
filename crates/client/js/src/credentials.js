// The access token of a client: which one to send, when to renew it, and when to give up. Pure.

import { PushonceError } from "./errors.js";

/** @import { Emit, TokenRequest } from "./types.js" */

/**
 * A token is renewed when a fifth of its remaining time is left: for a token of five minutes, a minute before it
 * expires.
 */
const RENEWAL_SHARE = 0.8;

/**
 * Minimum time between two renewals. Doubled while they follow each other, as with a clock that is wrong or a token
 * that stays the same.
 */
const RENEWAL_INTERVAL_MIN = 1_000;
const RENEWAL_DOUBLINGS_MAX = 6;

/** @typedef {ReturnType<typeof createCredentials>} Credentials */

/**
 * @param {Emit} emit
 * @param {string | undefined} token the first token
 * @param {boolean} canAsk whether the application has a function that returns tokens
 */
export function createCredentials(emit, token, canAsk) {
  /** The token that was refused or has expired. @type {string | undefined} */
  let refused;
  /** Why a new token is needed. @type {TokenRequest["reason"]} */
  let reason = "connect";
  /** Whether the token in use was requested because the one before it was refused. */
  let isSecondAttempt = false;
  let isAsking = false;
  let expiresAt = 0;
  let renewAt = Infinity;
  let renewals = 0;

  /** @param {TokenRequest["reason"]} why */
  function ask(why) {
    if (isAsking) return;
    isAsking = true;
    emit("token", why);
  }

  return {
    token: () => token,

    /** Whether a connection has the token that it needs; if not, asks for it. */
    isReady() {
      if (!canAsk || (token !== undefined && token !== refused)) return true;
      ask(reason);
      return false;
    },

    /**
     * A token of the application. Returns whether it differs from the one in use.
     * @param {string} next
     */
    onToken(next) {
      isAsking = false;
      const isNew = next !== token;
      token = next;
      return isNew;
    },

    /** The application gave no other token: it is asked again later. @param {number} now */
    askAgain(now) {
      isAsking = false;
      if (expiresAt) scheduleRenewal(now);
    },

    /** Whether the token in use was refused before, so that sending it is pointless. */
    isRefused: () => token !== undefined && token === refused,

    /**
     * The node refused the token, or it has expired. Returns the error that ends the client, or nothing when
     * another token may do.
     * @param {string} code
     * @param {string} message
     */
    refuse(code, message) {
      refused = token;
      reason = code === "token_expired" ? "expired" : "rejected";
      if (!canAsk || isSecondAttempt) return new PushonceError(code, message);
      isSecondAttempt = true;
      return undefined;
    },

    /** The node accepted the token. @param {number} now @param {number} [expires] in milliseconds since 1970 */
    onAccepted(now, expires) {
      isSecondAttempt = false;
      expiresAt = expires ?? 0;
      if (canAsk && expires) scheduleRenewal(now);
    },

    /** The connection has ended. A question without an answer is asked again when a token is needed. */
    reset() {
      isAsking = false;
      expiresAt = 0;
      renewAt = Infinity;
    },

    deadline: () => renewAt,

    /** Asks for the next token when it is time. @param {number} now */
    tick(now) {
      if (now < renewAt) return;
      renewAt = Infinity;
      ask("expiring");
    },
  };

  /** @param {number} now */
  function scheduleRenewal(now) {
    const delay = (expiresAt - now) * RENEWAL_SHARE;
    const delayMin = RENEWAL_INTERVAL_MIN * 2 ** renewals;
    renewals = delay < delayMin ? Math.min(renewals + 1, RENEWAL_DOUBLINGS_MAX) : 0;
    renewAt = now + Math.max(delay, delayMin);
  }
}
