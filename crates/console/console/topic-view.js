// One topic: its state, the route of its messages, the live tail, and a publish.

import { element, refresh, setText } from "./dom.js";
import { bytes, duration, perSecond, plural, whole } from "./format.js";
import { poll } from "./poll.js";
import { publishBox } from "./publish-box.js";
import { link } from "./router.js";
import { openClient, read } from "./session.js";
import { Tail } from "./tail.js";
import { TopicRates } from "./topic-rates.js";

/** @typedef {import("./types.js").TopicState} TopicState */
/** @typedef {import("./types.js").Explanation} Explanation */
/** @typedef {import("./cluster-store.js").ClusterStore} ClusterStore */

/** @param {ClusterStore} store @param {import("./router.js").Route} route @returns {import("./types.js").View} */
export function topicView(store, { path: topic, parameters }) {
  const client = openClient();
  const rates = new TopicRates();
  const facts = element("dl", { class: "facts-list" });
  const route = element("ol", { class: "route" });
  const note = element("p", { class: "note", role: "status" });
  const tail = new Tail(client, topic, parameters.get("from") ?? "last:20");
  const onError = (/** @type {unknown} */ error) =>
    setText(note, error ? `No state: ${/** @type {Error} */ (error).message}` : "");
  const stops = [
    poll(async (signal) => showState(facts, await read("topic", { topic }, signal), store, rates), 2_000, onError),
    poll(async (signal) => showRoute(route, await read("explain", { topic }, signal), store), 5_000),
    () => tail.stop(),
    () => client.close(),
  ];
  const segments = topic.split("/");
  const levels = segments.slice(0, -1).map((segment, index) => {
    return element(
      "li",
      {},
      element("a", { href: link("topics", `${segments.slice(0, index + 1).join("/")}/`) }, segment),
    );
  });
  const crumbs = element(
    "ol",
    { class: "crumbs" },
    element("li", {}, element("a", { href: link("topics", "") }, "all topics")),
    ...levels,
  );
  const explain = section("Route of a message to this page", route);
  const view = element(
    "div",
    { class: "view" },
    element("nav", { "aria-label": "Level" }, crumbs),
    element("h1", { class: "topic-name" }, topic),
    element(
      "div",
      { class: "columns" },
      element("div", {}, section("State", note, facts), explain),
      section("Publish", publishBox(client, topic)),
    ),
    tail.element,
  );
  return { title: topic, element: view, stop: () => stops.forEach((stop) => stop()) };
}

/** @param {string} title @param {Node[]} children */
function section(title, ...children) {
  const heading = element("h2", {}, title);
  return element("section", { class: "panel" }, heading, ...children);
}

/** @param {HTMLElement} list @param {TopicState} state @param {ClusterStore} store @param {TopicRates} rates */
function showState(list, state, store, rates) {
  const rate = rates.observe(state.topic, state.position);
  const { namespace } = state;
  const limits = [
    `${whole(namespace.history_count_max)} messages`,
    bytes(namespace.history_bytes_max),
    duration(namespace.history_age_max_ms),
  ];
  const settings = [
    namespace.durability,
    `delivers ${namespace.delivery}`,
    namespace.rate_max === null ? "" : `at most ${namespace.rate_max}/s`,
    namespace.anonymous_read ? "everyone may read" : "read with a grant",
    namespace.client_publish ? "clients may publish" : "only back ends publish",
  ];
  const history = state.oldest
    ? `${plural(state.history_messages, "message")}, ${bytes(state.history_bytes)}, from ${state.oldest}`
    : "none";
  const rows = [
    ["Position", state.position],
    ["Rate", rate === undefined ? "–" : perSecond(rate)],
    ["Audience", state.audience === null ? "counting" : plural(state.audience, "session")],
    ["History", history],
    ["History at most", limits.join(", ")],
    [`Namespace ${namespace.name}`, settings.filter(Boolean).join(", ") + (namespace.is_named ? "" : " (defaults)")],
    ["Replicas", state.replicas.map((id) => store.name(id)).join(", ")],
  ];
  refresh(list, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

/** What each node of the route does. */
const ROLES = new Map([
  ["owner", "owner: orders and stores the messages"],
  ["region_head", "region head: receives each message once for its region"],
  ["edge", "serves its subscribers"],
]);

/** @param {HTMLElement} list @param {Explanation} explanation @param {ClusterStore} store */
function showRoute(list, explanation, store) {
  const { shard, shards, route } = explanation;
  const steps = route.map(({ node, region, role }, index) => {
    const place = region ? `${store.name(node)} in ${region}` : store.name(node);
    const here = index === route.length - 1 ? " · this page" : "";
    return element(
      "li",
      {},
      element("strong", {}, place),
      element("span", { class: "note" }, `${ROLES.get(role) ?? role}${here}`),
    );
  });
  const hash = element(
    "li",
    {},
    element("strong", {}, `Shard ${shard}`),
    element("span", { class: "note" }, `by the hash of the name, one of ${shards}`),
  );
  const unknown = element(
    "li",
    {},
    element("strong", {}, "No owner"),
    element("span", { class: "note" }, "the shard is between two owners, or has lost its majority"),
  );
  refresh(list, hash, ...(steps.length ? steps : [unknown]));
}
