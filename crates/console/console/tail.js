// The live tail of a topic: filter, pause, and a start in the past.

import { element, fill, setText } from "./dom.js";
import { bytes, clock } from "./format.js";
import { payloadText } from "./payload-text.js";
import { parseStart } from "./start.js";

/** @typedef {import("/sdk/index.js").Client} Client */
/** @typedef {import("/sdk/index.js").Message} Message */
/** @typedef {import("/sdk/index.js").Subscription} Subscription */

/** Rows that are kept: a page with more becomes slow. */
const ROWS_MAX = 300;

export class Tail {
  #client;
  #topic;
  /** @type {Subscription | undefined} */
  #subscription;
  /** What arrived since the last frame of the browser. @type {HTMLElement[]} */
  #pending = [];
  #frame = 0;
  #count = 0;
  #rows = element("ol", { class: "tail", reversed: true, tabindex: "0", "aria-label": "Messages, the newest first" });
  #status = element("p", { class: "note", role: "status" });
  #pause = element("button", { type: "button", click: () => this.#toggle() }, "Pause");
  #filter = element("input", {
    id: "tail-filter",
    type: "search",
    autocomplete: "off",
    spellcheck: "false",
    input: () => this.#applyFilter(),
  });
  #start;
  element;

  /** @param {Client} client @param {string} topic @param {string} start see `parseStart` */
  constructor(client, topic, start) {
    this.#client = client;
    this.#topic = topic;
    this.#start = element("input", {
      id: "tail-start",
      value: start,
      autocomplete: "off",
      spellcheck: "false",
      list: "tail-starts",
    });
    this.element = this.#build();
    this.#subscribe(start);
  }

  stop() {
    cancelAnimationFrame(this.#frame);
    this.#subscription?.unsubscribe();
  }

  #build() {
    const starts = ["now", "last:20", "last:100", "start", "12:4051"].map((value) => element("option", { value }));
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      fill(this.#rows);
      this.#subscribe(this.#start.value);
    };
    const form = element(
      "form",
      { class: "tail-controls", submit },
      element("span", { class: "field" }, element("label", { for: "tail-filter" }, "Filter"), this.#filter),
      element("span", { class: "field" }, element("label", { for: "tail-start" }, "From"), this.#start),
      element("datalist", { id: "tail-starts" }, ...starts),
      element("button", { type: "submit" }, "Go"),
      this.#pause,
    );
    return element(
      "section",
      { class: "panel", "aria-labelledby": "tail-title" },
      element("h2", { id: "tail-title" }, "Live tail"),
      form,
      this.#status,
      this.#rows,
    );
  }

  /** @param {string} text */
  #subscribe(text) {
    const from = parseStart(text);
    if (from === undefined)
      return this.#say(`${JSON.stringify(text)} is no start: now, start, last:20, or a position such as 12:4051`);
    this.#subscription?.unsubscribe();
    this.#count = 0;
    setText(this.#pause, "Pause");
    this.#say("Connecting");
    const subscription = this.#client.subscribe(this.#topic, { from });
    this.#subscription = subscription;
    const isCurrent = () => this.#subscription === subscription;
    subscription.on(
      "subscribed",
      ({ position, delivery }) => isCurrent() && this.#say(`Live after ${position}, ${describe(delivery)}`),
    );
    subscription.on(
      "stale",
      () => isCurrent() && this.#say("Stale: this node has lost contact with the owner of the topic"),
    );
    subscription.on("live", ({ position }) => isCurrent() && this.#say(`Live again after ${position}`));
    subscription.on("error", (error) => isCurrent() && this.#say(`Ended: ${error.code}, ${error.message}`));
    subscription.on("gap", (gap) => isCurrent() && this.#add(gapRow(gap)));
    subscription.on("message", (message) => isCurrent() && this.#add(messageRow(message)));
    // The error event reports the same.
    subscription.subscribed.catch(() => {});
  }

  /** A pause ends the subscription: the node keeps the messages, not the page. */
  #toggle() {
    if (this.#subscription) {
      const position = this.#subscription.position;
      this.#subscription.unsubscribe();
      this.#subscription = undefined;
      setText(this.#pause, "Continue");
      this.#pause.dataset.position = position ?? "now";
      this.#say(position ? `Paused at ${position}` : "Paused");
    } else {
      this.#subscribe(this.#pause.dataset.position ?? "now");
    }
  }

  /** @param {HTMLElement} row */
  #add(row) {
    this.#count += 1;
    this.#pending.push(row);
    if (this.#pending.length > ROWS_MAX) this.#pending.shift();
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  #show() {
    this.#frame = 0;
    const filter = this.#filter.value.toLowerCase();
    this.#pending.forEach((row) => (row.hidden = !matches(row, filter)));
    this.#rows.prepend(...this.#pending.reverse());
    this.#pending = [];
    while (this.#rows.childElementCount > ROWS_MAX) this.#rows.lastElementChild?.remove();
  }

  #applyFilter() {
    const filter = this.#filter.value.toLowerCase();
    for (const row of this.#rows.children) /** @type {HTMLElement} */ (row).hidden = !matches(row, filter);
  }

  /** @param {string} text */
  #say(text) {
    setText(this.#status, text);
  }
}

/** @param {Element} row @param {string} filter */
const matches = (row, filter) => !filter || (row.textContent ?? "").toLowerCase().includes(filter);

/** @param {import("/sdk/index.js").Delivery} delivery */
function describe(delivery) {
  if (delivery === "all") return "every message";
  return delivery === "latest" ? "the newest message only" : `at most ${delivery.rate} a second`;
}

/** @param {Message} message */
function messageRow({ position, time, data, contentType, key }) {
  const text = payloadText(data);
  const about = [clock(time), contentType, bytes(new Blob([text]).size), key && `key ${key}`]
    .filter(Boolean)
    .join(" · ");
  const head = element(
    "div",
    { class: "message-head" },
    element("strong", {}, position),
    element("span", { class: "note" }, about),
  );
  return element("li", {}, head, element("pre", {}, text));
}

/** @param {import("/sdk/index.js").Gap} gap */
function gapRow({ from, to, reason }) {
  return element("li", { class: "gap" }, `! ${from} to ${to} are missing: ${reason}`);
}
