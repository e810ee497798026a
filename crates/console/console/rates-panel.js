// What the whole cluster does, second by second.

import { Chart } from "./chart.js";
import { element } from "./dom.js";
import { bytes, latency, perSecond, short } from "./format.js";
import { poll } from "./poll.js";
import { read } from "./session.js";

/** @typedef {import("./types.js").Sample} Sample */
/** @typedef {import("./types.js").Rates} Rates */

/** How much the charts show. */
const SECONDS = 300;

/** How many seconds are read again each time: a slow answer leaves no hole. */
const OVERLAP = 8;

export class RatesPanel {
  /** @type {Map<number, Sample>} */
  #samples = new Map();
  #charts = charts();
  #stop;
  element = element(
    "section",
    { "aria-labelledby": "rates-title", class: "panel" },
    element("h2", { id: "rates-title" }, "Last 5 minutes, all nodes"),
    element("div", { class: "charts" }, ...this.#charts.map((chart) => chart.element)),
  );

  /** @param {(rates: Rates) => void} onRates called with each answer */
  constructor(onRates) {
    this.#stop = poll(async (signal) => {
      const seconds = this.#samples.size ? OVERLAP : SECONDS;
      this.#add(await read("rates", { seconds }, signal), onRates);
    }, 1_000);
  }

  stop() {
    this.#stop();
  }

  /** @param {Rates} rates @param {(rates: Rates) => void} onRates */
  #add(rates, onRates) {
    const newest = rates.samples.at(-1)?.second ?? 0;
    // After a pause, as of a hidden page, the seconds between are missing: read them all.
    if (this.#samples.size && !this.#samples.has(rates.samples[0]?.second)) this.#samples.clear();
    for (const sample of rates.samples) this.#samples.set(sample.second, sample);
    for (const second of this.#samples.keys()) {
      if (second <= newest - SECONDS || second > newest) this.#samples.delete(second);
    }
    const ordered = [...this.#samples.values()].sort((a, b) => a.second - b.second);
    this.#charts.forEach((chart) => chart.update(ordered));
    onRates(rates);
  }
}

function charts() {
  const chart = (
    /** @type {string} */ title,
    /** @type {(value: number) => string} */ format,
    /** @type {[string, keyof Sample][]} */ ...lines
  ) => {
    const styled = lines.map(([label, key], index) => ({
      label,
      style: index ? "second" : "main",
      value: (/** @type {Sample} */ sample) => sample[key],
    }));
    return new Chart(title, styled, format, SECONDS);
  };
  return [
    chart("Published", perSecond, ["published", "published"], ["rejected", "rejected"]),
    chart("Delivered", perSecond, ["delivered", "delivered"]),
    chart("Sessions", short, ["sessions", "sessions"], ["subscriptions", "subscriptions"]),
    chart("Publish to acknowledgement, p99", latency, ["p99", "publish_p99_us"], ["p50", "publish_p50_us"]),
    chart("Commit to socket, p99", latency, ["p99", "delivery_p99_us"], ["p50", "delivery_p50_us"]),
    chart("Sent to clients", (value) => `${bytes(value)}/s`, ["sent", "sent_bytes"]),
  ];
}
