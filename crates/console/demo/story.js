// "Publish once" in one picture: how a change reaches the viewers in four designs, drawn with the changes that this
// page receives, and what each design asks of the site.

import { POLL_SECONDS, siteWork } from "./costs.js";
import { byId, element, grouped, isMotionReduced, setText, svg } from "./dom.js";

/** @typedef {import("./costs.js").Design} Design */

const VIEWERS = 7;
const SITE = { x: 34, y: 80 };
const CLUSTER = { x: 120, y: 80 };
const WIDTH = 240;
const HEIGHT = 160;
const FLIGHT_MS = 700;
/** The least time between two changes that are drawn: the dots of more would overlap. */
const DRAW_EVERY = 1_500;

const viewers = Array.from({ length: VIEWERS }, (_, index) => ({ x: 210, y: 20 + (120 / (VIEWERS - 1)) * index }));

/** @type {{ design: Design, title: string, text: string, work: string, formula: string }[]} */
const DESIGNS = [
  {
    design: "reload",
    title: "Everyone reloads",
    text: "The page does not move, so people press F5. Each reload is a whole page from the site.",
    work: "page loads",
    formula: "changes × viewers",
  },
  {
    design: "poll",
    title: "Everyone polls",
    text: `Each page asks every ${POLL_SECONDS} seconds whether anything is new. Mostly nothing is.`,
    work: "requests",
    formula: `viewers × seconds ÷ ${POLL_SECONDS}`,
  },
  {
    design: "push",
    title: "The site pushes",
    text: "Each change arrives at once, but the site itself holds every connection and sends every copy.",
    work: "messages sent",
    formula: "changes × viewers",
  },
  {
    design: "once",
    title: "The site publishes once",
    text: "The site publishes each change once. The nodes keep the connections, the history and the copies.",
    work: "publishes",
    formula: "changes",
  },
];

/** One of the four pictures. */
class Picture {
  #design;
  #value = element("b", "work");
  #bar = element("i", "");
  #note = element("small", "", "");
  #drawing;
  root;

  /** @param {typeof DESIGNS[0]} description */
  constructor({ design, title, text, work, formula }) {
    this.#design = design;
    this.#drawing = drawing(design, title);
    setText(this.#note, `${work} = ${formula}`);
    const caption = element(
      "figcaption",
      "",
      element("h3", "", title),
      element("p", "", text),
      element("p", "figure", this.#value, ` ${work} for the site`),
      element("div", "bar", this.#bar),
      this.#note,
    );
    this.root = element("figure", design, this.#drawing, caption);
  }

  /** @param {number} work @param {number} most of the four */
  show(work, most) {
    setText(this.#value, grouped(work));
    this.#bar.style.width = `${most ? Math.max(0.5, (100 * work) / most) : 0}%`;
  }

  /** Draws the messages of one change. */
  draw() {
    for (const { from, to, delay } of flights(this.#design)) fly(this.#drawing, from, to, delay);
  }
}

/** Where messages fly for one change, and when. @param {Design} design */
function flights(design) {
  const toAll = (/** @type {typeof SITE} */ from, /** @type {number} */ delay) =>
    viewers.map((to) => ({ from, to, delay }));
  const fromAll = viewers.map((from, index) => ({ from, to: SITE, delay: 40 * index }));
  if (design === "push") return toAll(SITE, 0);
  if (design === "once") return [{ from: SITE, to: CLUSTER, delay: 0 }, ...toAll(CLUSTER, FLIGHT_MS * 0.7)];
  return [...fromAll, ...toAll(SITE, FLIGHT_MS)];
}

/** @param {Element} drawing @param {typeof SITE} from @param {typeof SITE} to @param {number} delay */
function fly(drawing, from, to, delay) {
  const dot = svg("circle", { class: "message", r: 4 });
  const at = (/** @type {typeof SITE} */ { x, y }) => `translate(${x}px, ${y}px)`;
  drawing.append(dot);
  const flight = dot.animate([{ transform: at(from) }, { transform: at(to) }], {
    duration: FLIGHT_MS,
    delay,
    easing: "ease-in-out",
    fill: "both",
  });
  flight.finished.finally(() => dot.remove()).catch(() => {});
}

/** @param {Design} design @param {string} title */
function drawing(design, title) {
  const hub = design === "once" ? CLUSTER : SITE;
  const lines = viewers.map(({ x, y }) => svg("line", { x1: hub.x, y1: hub.y, x2: x, y2: y }));
  if (design === "once")
    lines.push(svg("line", { class: "one", x1: SITE.x, y1: SITE.y, x2: CLUSTER.x, y2: CLUSTER.y }));
  const site = svg("rect", { class: "site", x: SITE.x - 20, y: SITE.y - 16, width: 40, height: 32, rx: 6 });
  const label = svg("text", { x: SITE.x, y: SITE.y + 4 }, "site");
  const parts = [
    ...lines,
    site,
    label,
    ...viewers.map(({ x, y }) => svg("circle", { class: "viewer", cx: x, cy: y, r: 6 })),
  ];
  if (design === "once") {
    for (const [x, y] of [
      [0, -18],
      [-16, 12],
      [16, 12],
    ]) {
      parts.push(svg("circle", { class: "broker", cx: CLUSTER.x + x, cy: CLUSTER.y + y, r: 11 }));
    }
  }
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title }, ...parts);
}

export class Story {
  #pictures = DESIGNS.map((description) => new Picture(description));
  #isVisible = false;
  #drawAt = 0;
  /** @type {import("./cluster.js").Counters | undefined} */
  #counters;
  #audience = 0;

  constructor() {
    byId("designs").replaceChildren(...this.#pictures.map(({ root }) => root));
    new IntersectionObserver(([entry]) => (this.#isVisible = entry.isIntersecting)).observe(byId("designs"));
    byId("viewers").addEventListener("change", () => this.#show());
  }

  /** A message has arrived. */
  onMessage() {
    if (!this.#isVisible || isMotionReduced() || document.hidden || performance.now() < this.#drawAt) return;
    this.#drawAt = performance.now() + DRAW_EVERY;
    for (const picture of this.#pictures) picture.draw();
  }

  /** @param {number} audience */
  setAudience(audience) {
    this.#audience = audience;
    this.#show();
  }

  /** @param {import("./cluster.js").Counters} counters */
  setCounters(counters) {
    this.#counters = counters;
    this.#show();
  }

  #show() {
    if (!this.#counters) return;
    const { publishes, deliveries, sent_bytes: bytes, seconds } = this.#counters;
    const chosen = Number(/** @type {HTMLSelectElement} */ (byId("viewers")).value);
    const count = chosen || this.#audience;
    const work = siteWork({ changes: publishes, viewers: count, seconds });
    const most = Math.max(...Object.values(work));
    DESIGNS.forEach(({ design }, index) => this.#pictures[index].show(work[design], most));
    setText(byId("story-changes"), grouped(publishes));
    setText(byId("story-viewers"), grouped(count));
    setText(byId("story-seconds"), grouped(seconds));
    setText(byId("story-deliveries"), grouped(deliveries));
    setText(byId("story-bytes"), bytes < 1e6 ? `${grouped(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
  }
}
