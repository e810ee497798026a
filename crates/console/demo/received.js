// Whether messages are missing: the positions of a topic are numbers without holes. No DOM.

/**
 * @typedef {object} Run
 * @property {bigint} epoch
 * @property {bigint} first the offset of the first message
 * @property {bigint} last
 * @property {number} received
 */

export class Received {
  /** The present run of each topic. @type {Map<string, Run>} */
  #runs = new Map();
  #received = 0;
  /** Of the runs before. */
  #missed = 0;

  /** @param {string} topic @param {string} position `epoch:offset` */
  onMessage(topic, position) {
    const [epoch, offset] = position.split(":").map(BigInt);
    this.#received += 1;
    const run = this.#runs.get(topic);
    if (run && run.epoch === epoch) {
      run.last = offset;
      run.received += 1;
      return;
    }
    this.end(topic);
    this.#runs.set(topic, { epoch, first: offset, last: offset, received: 1 });
  }

  /** The topic is no longer subscribed, or begins elsewhere. @param {string} topic */
  end(topic) {
    const run = this.#runs.get(topic);
    if (run) this.#missed += missedIn(run);
    this.#runs.delete(topic);
  }

  /** Messages that arrived. */
  get received() {
    return this.#received;
  }

  /** Messages between two others that did not arrive. */
  get missed() {
    return [...this.#runs.values()].reduce((sum, run) => sum + missedIn(run), this.#missed);
  }
}

/** @param {Run} run */
const missedIn = ({ first, last, received }) => Number(last - first) + 1 - received;
