// A small line chart of the last minutes, with the newest value in large digits.

import { element, fill, setText, svg } from "./dom.js";
import { clock } from "./format.js";

const WIDTH = 300;
const HEIGHT = 72;

/** The age up to which a value counts as the newest. */
const RECENT_SECONDS = 5;

/**
 * @typedef {object} Line
 * @property {string} label
 * @property {string} style the class of the line: `main`, `second` (dashed)
 * @property {(sample: any) => number | null} value
 */

export class Chart {
  #value = element("span", { class: "chart-value" });
  #detail = element("span", { class: "chart-detail" });
  #top = element("span", { class: "chart-top", "aria-hidden": "true" });
  #picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #title;
  #lines;
  #format;
  #seconds;
  /** @type {{ second: number }[]} */
  #rows = [];
  /** Where the pointer is, from 0 at the left to 1 at the right. @type {number | undefined} */
  #pointed;
  element;

  /** @param {string} title @param {Line[]} lines @param {(value: number) => string} format @param {number} seconds */
  constructor(title, lines, format, seconds) {
    this.#title = title;
    this.#lines = lines;
    this.#format = format;
    this.#seconds = seconds;
    const heading = element(
      "figcaption",
      {},
      element("span", { class: "chart-title" }, title),
      this.#value,
      this.#detail,
    );
    const point = (/** @type {PointerEvent | undefined} */ event) => {
      const { left, width } = this.#picture.getBoundingClientRect();
      this.#pointed = event && (event.clientX - left) / width;
      this.#draw();
    };
    const listeners = { pointermove: point, pointerleave: () => point(undefined) };
    const frame = element("div", { class: "chart-frame", ...listeners }, this.#picture, this.#top);
    this.element = element("figure", { class: "chart" }, heading, frame);
  }

  /** @param {{ second: number }[]} samples ordered by time */
  update(samples) {
    const begin = (samples.at(-1)?.second ?? 0) - this.#seconds;
    this.#rows = samples.filter(({ second }) => second > begin);
    this.#draw();
  }

  #draw() {
    const rows = this.#rows;
    const begin = (rows.at(-1)?.second ?? 0) - this.#seconds;
    const values = this.#lines.flatMap((line) => rows.map((row) => line.value(row) ?? 0));
    const top = ceiling(Math.max(0, ...values));
    const x = (/** @type {number} */ second) => ((second - begin) / this.#seconds) * WIDTH;
    const y = (/** @type {number} */ value) => HEIGHT - 1 - (value / top) * (HEIGHT - 6);
    const grid = [0, 0.5].map((part) =>
      svg("line", { x1: 0, x2: WIDTH, y1: y(top * (1 - part)), y2: y(top * (1 - part)), class: "grid" }),
    );
    const paths = this.#lines.map((line) => svg("path", { class: `line ${line.style}`, d: path(rows, line, x, y) }));
    fill(this.#picture, ...grid, ...paths.reverse(), this.#pointer());
    // An older value says nothing about now.
    const recent = rows.slice(-RECENT_SECONDS);
    const newest = (/** @type {Line} */ line) => recent.map(line.value).findLast((value) => value !== null) ?? null;
    const text = (/** @type {number | null} */ value) => (value === null ? "–" : this.#format(value));
    const [main, ...others] = this.#lines;
    setText(this.#value, text(newest(main)));
    const rest = others.map((line) => `${line.label} ${text(newest(line))}`).join(" · ");
    setText(this.#detail, this.#pointedText(begin) ?? rest);
    setText(this.#top, values.some(Boolean) ? this.#format(top) : "");
    const highest = Math.max(0, ...rows.map((row) => main.value(row) ?? 0));
    const summary = `${this.#title}: now ${text(newest(main))}, highest ${this.#format(highest)} in the last ${this.#seconds / 60} minutes`;
    this.#picture.setAttribute("aria-label", summary);
  }

  #pointer() {
    if (this.#pointed === undefined) return undefined;
    const x = this.#pointed * WIDTH;
    return svg("line", { x1: x, x2: x, y1: 0, y2: HEIGHT, class: "pointer" });
  }

  /** The values at the pointer, or `undefined` without a pointer or a sample there. @param {number} begin */
  #pointedText(begin) {
    if (this.#pointed === undefined) return undefined;
    const second = Math.round(begin + this.#pointed * this.#seconds);
    const row = this.#rows.find((it) => it.second === second);
    if (!row) return undefined;
    const values = this.#lines.map((line) => {
      const value = line.value(row);
      return value === null ? "–" : this.#format(value);
    });
    return `at ${clock(second * 1_000).slice(0, 8)}: ${values.join(" · ")}`;
  }
}

/**
 * A path with a gap where there is no value.
 * @param {{ second: number }[]} rows @param {Line} line
 * @param {(second: number) => number} x @param {(value: number) => number} y
 */
function path(rows, line, x, y) {
  let d = "";
  let previous = -Infinity;
  for (const row of rows) {
    const value = line.value(row);
    if (value === null) continue;
    // A second without a value is a gap; some seconds without publishes are not worth breaking a line.
    d += `${row.second - previous > 5 ? "M" : "L"}${x(row.second).toFixed(1)} ${y(value).toFixed(1)}`;
    previous = row.second;
  }
  return d;
}

/** The next of 1, 2, 5, 10, 20 …, so that the scale rarely changes. @param {number} value */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((it) => it * power >= value) ?? 10;
  return step * power;
}
