// Topics as a tree by segment, one level at a time, with a search by prefix. The node counts and pages.

import { element, refresh, setText } from "./dom.js";
import { bytes, perSecond, plural, whole } from "./format.js";
import { poll } from "./poll.js";
import { link } from "./router.js";
import { read } from "./session.js";
import { TopicRates } from "./topic-rates.js";

/** @typedef {import("./types.js").Segment} Segment */
/** @typedef {import("./types.js").TopicPage} TopicPage */

/** Rows of a page: as many as the node describes with one request to each owner. */
const ROWS = 100;

/** The pause after a key before the list is searched. */
const TYPING_PAUSE = 250;

/** @param {import("./router.js").Route} route @returns {import("./types.js").View} */
export function topicsView({ path: prefix, parameters }) {
  const after = parameters.get("after") ?? "";
  const rates = new TopicRates();
  const rows = element("tbody", {});
  const note = element("p", { class: "note", role: "status" });
  const pages = element("nav", { class: "pages", "aria-label": "Pages" });
  const update = (/** @type {TopicPage} */ page) => {
    refresh(rows, ...page.segments.map((segment) => row(page.level, segment, rates)));
    setText(note, describe(prefix, page));
    const first = after ? element("a", { href: link("topics", prefix) }, "First page") : undefined;
    const next = page.next
      ? element("a", { href: link("topics", prefix, { after: page.next }) }, "Next page")
      : undefined;
    refresh(pages, first, next);
  };
  const stop = poll(
    async (signal) => update(await read("topics", { prefix, after, limit: ROWS }, signal)),
    2_000,
    (error) => error && setText(note, `No list: ${/** @type {Error} */ (error).message}`),
  );
  const view = element(
    "div",
    { class: "view" },
    element("h1", {}, "Topics"),
    element("section", { class: "panel" }, searchField(prefix), breadcrumbs(prefix), note, table(rows), pages),
  );
  return { title: prefix ? `Topics ${prefix}` : "Topics", element: view, stop };
}

/** @param {string} prefix */
function searchField(prefix) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const input = element("input", {
    id: "topic-prefix",
    type: "search",
    value: prefix,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "worldcup/2026/",
    input: () => {
      clearTimeout(timer);
      timer = setTimeout(search, TYPING_PAUSE);
    },
  });
  const search = () => {
    clearTimeout(timer);
    // No entry in the browser's history for each key.
    if (input.isConnected) location.replace(link("topics", input.value));
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    search();
  };
  const open = element(
    "button",
    { type: "button", class: "quiet", click: () => input.value && location.assign(link("topic", input.value)) },
    "Open topic",
  );
  return element(
    "form",
    { class: "search", role: "search", submit },
    element("label", { for: "topic-prefix" }, "Prefix"),
    input,
    open,
  );
}

/** @param {string} prefix */
function breadcrumbs(prefix) {
  const segments = prefix.split("/").slice(0, -1);
  const levels = segments.map((segment, index) => {
    const level = `${segments.slice(0, index + 1).join("/")}/`;
    return element("li", {}, element("a", { href: link("topics", level) }, segment));
  });
  const all = element("li", {}, element("a", { href: link("topics", "") }, "all topics"));
  return element("nav", { "aria-label": "Level" }, element("ol", { class: "crumbs" }, all, ...levels));
}

/** @param {HTMLElement} rows */
function table(rows) {
  const columns = ["Segment", "Topics below", "Position", "Rate", "Audience", "History"];
  const head = columns.map((name, index) => element("th", { scope: "col", class: index ? "number" : undefined }, name));
  const caption = element("caption", { class: "hidden" }, "Segments of this level");
  return element(
    "div",
    { class: "scroll" },
    element("table", { class: "topics" }, caption, element("thead", {}, element("tr", {}, ...head)), rows),
  );
}

/** @param {string} level @param {Segment} segment @param {TopicRates} rates */
function row(level, { segment, topics_below, topic }, rates) {
  const name = `${level}${segment}`;
  const rate = topic ? rates.observe(name, topic.position) : undefined;
  const number = (/** @type {string | undefined} */ text) => element("td", { class: "number" }, text ?? "");
  const open = topic ? element("a", { href: link("topic", name) }, segment) : undefined;
  const below = topics_below
    ? element("a", { class: "folder", href: link("topics", `${name}/`) }, `${segment}/`)
    : undefined;
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, open, below),
    number(topics_below ? whole(topics_below) : undefined),
    number(topic?.position),
    number(rate === undefined ? undefined : perSecond(rate)),
    number(topic ? (topic.audience === null ? "counting" : whole(topic.audience)) : undefined),
    number(topic ? `${whole(topic.history_messages)} · ${bytes(topic.history_bytes)}` : undefined),
  );
}

/** @param {string} prefix @param {TopicPage} page */
function describe(prefix, page) {
  const found = prefix ? `${plural(page.topics, "topic")} with this prefix` : plural(page.topics, "topic");
  const unknown = page.unknown_shards.length;
  return unknown ? `${found}; those of ${plural(unknown, "shard")} are missing: no owner responds` : found;
}
