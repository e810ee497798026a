// The rate of a topic, from two of its positions: the node keeps none.

/** The shortest time between two positions that give a rate. */
const INTERVAL_MIN = 900;

export class TopicRates {
  /** @type {Map<string, { epoch: string, offset: number, at: number, rate: number | undefined }>} */
  #known = new Map();

  /**
   * Adds a position of a topic. Returns messages a second, or `undefined` until there are two positions of one epoch.
   * @param {string} topic @param {string} position @param {number} [now] in milliseconds
   */
  observe(topic, position, now = performance.now()) {
    const [epoch, offset] = position.split(":");
    const known = this.#known.get(topic);
    const next = { epoch, offset: Number(offset), at: now, rate: known?.rate };
    if (known?.epoch === epoch) {
      if (now - known.at < INTERVAL_MIN) return known.rate;
      next.rate = Math.max(next.offset - known.offset, 0) / ((now - known.at) / 1_000);
    } else {
      next.rate = undefined;
    }
    this.#known.set(topic, next);
    return next.rate;
  }
}
