// When to publish a message again. Without I/O.

/** For a publish with all its attempts: longer than a shard needs to get a new owner (2 s) and than a node waits for a
 * commit (5 s). */
export const DEADLINE_MS = 8_000;

/** For one attempt: longer than a node looks for the owner of a topic (5 s), and leaves time for another node. */
const ATTEMPT_TIMEOUT_MS = 5_250;

/** Delays with full jitter: drawn between zero and a bound that doubles up to a maximum. */
export class Backoff {
  #first;
  #bound;
  #maximum;

  constructor(first, maximum) {
    this.#first = this.#bound = first;
    this.#maximum = maximum;
  }

  next() {
    const delay = Math.random() * this.#bound;
    this.#bound = Math.min(this.#bound * 2, this.#maximum);
    return delay;
  }

  reset() {
    this.#bound = this.#first;
  }
}

/** The attempts to publish one message. Every attempt must send the same key or nonce: it is then stored once. */
export class Attempts {
  #end;
  // Short delays: a shard that changes its owner accepts publishes again after a second or two.
  #backoff = new Backoff(20, 500);
  #unknown;

  constructor(deadlineMs) {
    this.#end = Date.now() + deadlineMs;
  }

  /** When the next attempt ends. */
  deadline() {
    return Math.min(Date.now() + ATTEMPT_TIMEOUT_MS, this.#end);
  }

  /** Milliseconds to wait before the next attempt; undefined when there is none. */
  delayAfter(failure) {
    if (failure.kind === "unknown") this.#unknown = failure;
    // For an expired token the next attempt asks for a new one.
    else if (!failure.retry && failure.reason !== "token_expired") return undefined;
    const delay = Math.max(this.#backoff.next(), failure.delayMs ?? 0);
    return Date.now() + delay < this.#end ? delay : undefined;
  }

  /** The outcome when the last attempt ended with `failure`. A message that one node rejects may have been stored by an
   * earlier attempt whose outcome is unknown. */
  final(failure) {
    return this.#unknown ?? failure;
  }
}
