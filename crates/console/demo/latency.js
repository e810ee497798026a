// The time from the publish of a message to this screen.

import { byId, element, grouped, setText } from "./dom.js";

const SAMPLES = 1_000;
/** Of 2 ms each; the last one has all that took longer. */
const BUCKETS = 25;
const BUCKET_MS = 2;
const SHOW_EVERY = 1_000;

/** The last samples, in milliseconds. No DOM. */
export class Samples {
  /** @type {number[]} */
  #values = [];
  count = 0;

  /** @param {number} value */
  add(value) {
    this.#values[this.count++ % SAMPLES] = value;
  }

  /** @param {number[]} percentages @returns {number[]} */
  percentiles(percentages) {
    const sorted = Float64Array.from(this.#values).sort();
    return percentages.map((p) => sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))]);
  }

  buckets() {
    const buckets = new Array(BUCKETS).fill(0);
    for (const value of this.#values) buckets[Math.min(BUCKETS - 1, Math.floor(value / BUCKET_MS))] += 1;
    return buckets;
  }
}

/** Milliseconds since 1970 with fractions, unless the device slept and only `Date` knows the time. */
export function now() {
  const precise = performance.timeOrigin + performance.now();
  const coarse = Date.now();
  return Math.abs(precise - coarse) < 5 ? precise : coarse;
}

/** @param {number} ms */
const milliseconds = (ms) => (ms === undefined ? "–" : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`);

export class LatencyPanel {
  #dom = new Samples();
  #frame = new Samples();
  /** Publish times of what the next frame shows. @type {number[]} */
  #waiting = [];
  #bars = Array.from({ length: BUCKETS }, () => element("i", ""));

  constructor() {
    byId("histogram").replaceChildren(...this.#bars);
    setInterval(() => this.#show(), SHOW_EVERY);
  }

  /** The document has been changed for a message just now. @param {number} publishedMs */
  record(publishedMs) {
    this.#dom.add(Math.max(0, now() - publishedMs));
    // A hidden tab has no frames.
    if (document.hidden) return;
    this.#waiting.push(publishedMs);
    if (this.#waiting.length === 1) requestAnimationFrame(() => this.#onFrame());
  }

  /** The figures, for tests. */
  figures() {
    const [p50, p95, p99] = this.#dom.percentiles([50, 95, 99]);
    const [frame] = this.#frame.percentiles([50]);
    return { count: this.#dom.count, p50, p95, p99, frame };
  }

  #onFrame() {
    const time = now();
    for (const publishedMs of this.#waiting) this.#frame.add(Math.max(0, time - publishedMs));
    this.#waiting = [];
  }

  #show() {
    const { count, p50, p95, p99, frame } = this.figures();
    setText(byId("samples"), grouped(count));
    if (!count) return;
    for (const [name, value] of Object.entries({ p50, p95, p99, frame })) setText(byId(name), milliseconds(value));
    const buckets = this.#dom.buckets();
    const top = Math.max(...buckets);
    buckets.forEach((count, index) => {
      this.#bars[index].style.transform = `scaleY(${count / top})`;
    });
    byId("histogram").setAttribute(
      "aria-label",
      `Latency of the last ${Math.min(count, SAMPLES)} messages: half within ${milliseconds(p50)}, 99 % within ${milliseconds(p99)}`,
    );
  }
}
