// Errors with the code words of the protocol.

/**
 * A request was refused, or the client cannot continue. `code` is a code word of the protocol, such as `not_allowed`.
 */
export class PushonceError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {boolean} [retry] whether the same request may succeed later
   */
  constructor(code, message, retry = false) {
    super(message);
    this.name = "PushonceError";
    this.code = code;
    this.retry = retry;
  }
}

/**
 * A publish that was not acknowledged. `rejected`: nothing happened. `unknown`: the message may be stored; publish
 * it again with the same `key`, and it is stored once.
 */
export class PublishError extends PushonceError {
  /**
   * @param {"rejected" | "unknown"} outcome
   * @param {string} code
   * @param {string} message
   * @param {boolean} retry
   * @param {string} key
   */
  constructor(outcome, code, message, retry, key) {
    super(code, message, retry);
    this.name = "PublishError";
    this.outcome = outcome;
    this.key = key;
  }
}
