// The cluster as a picture: its health, the owners of shards, moves, and rates.

import { element, refresh, setText } from "./dom.js";
import { assess } from "./health.js";
import { NodesPanel } from "./nodes-panel.js";
import { RatesPanel } from "./rates-panel.js";
import { Ring } from "./ring.js";

/** @typedef {import("./cluster-store.js").ClusterStore} ClusterStore */
/** @typedef {import("./types.js").Cluster} Cluster */

/** @param {ClusterStore} store @returns {import("./types.js").View} */
export function clusterView(store) {
  const status = new StatusPanel();
  const ring = new Ring();
  const nodes = new NodesPanel((number) => ring.emphasise(number));
  const rates = new RatesPanel((answer) => {
    nodes.setRates(answer);
    if (store.cluster) nodes.update(store.cluster);
  });
  const moves = element("section", { class: "panel", "aria-labelledby": "moves-title", hidden: true });
  const unwatch = store.watch((cluster, error) => {
    status.update(cluster, error);
    if (!cluster) return;
    ring.update(cluster, (id) => store.name(id));
    nodes.update(cluster);
    showMoves(moves, cluster);
  });
  const topology = element("div", { class: "panel topology" }, ring.element, nodes.element);
  return {
    title: "Cluster",
    element: element("div", { class: "view" }, status.element, topology, moves, rates.element),
    stop: () => {
      unwatch();
      rates.stop();
    },
  };
}

/** The answer to the first question: is all well? */
class StatusPanel {
  #mark = element("span", { class: "status-mark", "aria-hidden": "true" });
  #title = element("h1", {});
  #facts = element("p", { class: "facts" });
  #problems = element("ul", { class: "problems" });
  element = element(
    "section",
    { class: "status" },
    this.#mark,
    element("div", {}, this.#title, this.#facts, this.#problems),
  );

  /** @param {Cluster | undefined} cluster @param {unknown} error */
  update(cluster, error) {
    const { level, mark, title, facts } = assess(cluster, error);
    this.element.dataset.level = level;
    setText(this.#mark, mark);
    setText(this.#title, title);
    setText(this.#facts, facts.join(" · "));
    const problems = error ? [] : (cluster?.problems ?? []);
    const texts = problems.map(({ severity, text }) => `${severity}: ${text}`);
    if (texts.join("\n") !== [...this.#problems.children].map((item) => item.textContent).join("\n")) {
      refresh(this.#problems, ...texts.map((text) => element("li", {}, text)));
    }
  }
}

/** @param {HTMLElement} panel @param {Cluster} cluster */
function showMoves(panel, cluster) {
  panel.hidden = !cluster.moves.length;
  if (panel.hidden) return refresh(panel);
  const items = cluster.moves.map((move) => {
    const progress = move.last ? element("progress", { max: move.last, value: move.matched }) : undefined;
    return element("li", {}, element("span", {}, `Shard ${move.shard}: ${move.text}`), progress);
  });
  refresh(panel, element("h2", { id: "moves-title" }, "Moves"), element("ul", { class: "moves" }, ...items));
}
