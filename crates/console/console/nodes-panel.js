// The nodes, by region.

import { element, refresh } from "./dom.js";
import { latency, perSecond, short } from "./format.js";
import { colourClass, numbers } from "./ring.js";

/** @typedef {import("./types.js").Cluster} Cluster */
/** @typedef {import("./types.js").Member} Member */
/** @typedef {import("./types.js").Rates} Rates */

export class NodesPanel {
  #regions = element("div", {
    class: "regions",
    // On the container: the rows are made again with each answer.
    mouseover: (event) => this.#point(event.target),
    mouseleave: () => this.#point(undefined),
  });
  /** @type {Map<string, import("./types.js").Sample | null>} */
  #newest = new Map();
  #emphasise;
  element = element(
    "section",
    { "aria-labelledby": "nodes-title" },
    element("h2", { id: "nodes-title" }, "Nodes"),
    this.#regions,
  );

  /** @param {(number: number | undefined) => void} emphasise called with the node that is pointed at */
  constructor(emphasise) {
    this.#emphasise = emphasise;
  }

  /** @param {Element | undefined} target */
  #point(target) {
    const number = target?.closest("tr")?.dataset.number;
    this.#emphasise(number === undefined ? undefined : Number(number));
  }

  /** @param {Rates} rates */
  setRates(rates) {
    this.#newest = new Map(rates.nodes.map(({ id, newest }) => [id, newest]));
  }

  /** @param {Cluster} cluster */
  update(cluster) {
    const regions = [...new Set(cluster.members.map(({ region }) => region))].sort();
    const tables = regions.map((region) => {
      const members = cluster.members.filter((member) => member.region === region);
      return this.#region(cluster, region, members);
    });
    refresh(this.#regions, ...tables);
  }

  /** @param {Cluster} cluster @param {string} region @param {Member[]} members */
  #region(cluster, region, members) {
    const title = region ? `Region ${region}` : "Nodes without a region";
    const columns = ["Node", "State", "Owns", "Replicas", "Round trip", "Sessions", "Publishes"];
    const head = columns.map((name, index) =>
      element("th", { scope: "col", class: index > 1 ? "number" : undefined }, name),
    );
    return element(
      "div",
      { class: "scroll" },
      element(
        "table",
        {},
        element("caption", {}, title),
        element("thead", {}, element("tr", {}, ...head)),
        element("tbody", {}, ...members.map((member) => this.#row(cluster, member))),
      ),
    );
  }

  /** @param {Cluster} cluster @param {Member} member */
  #row(cluster, member) {
    const number = numbers(cluster).get(member.id) ?? 0;
    const owned = cluster.shards.filter((shard) => shard.owner === member.id).length;
    const held = cluster.shards.filter((shard) => shard.replicas.includes(member.id)).length;
    const newest = this.#newest.get(member.id);
    const notes = [
      member.id,
      member.zone && `zone ${member.zone}`,
      member.id === cluster.leader && "control leader",
      member.id === cluster.node && "this page",
    ];
    const roundTrip = cluster.round_trips_us[member.id];
    const numberCell = (/** @type {string | number} */ text) => element("td", { class: "number" }, text);
    return element(
      "tr",
      { "data-number": number },
      element(
        "th",
        { scope: "row" },
        element("span", { class: `swatch ${colourClass(number)}`, "aria-hidden": "true" }, number + 1),
        element("span", { class: "node-name" }, member.name),
        element("span", { class: "note" }, notes.filter(Boolean).join(", ")),
      ),
      element("td", {}, state(member)),
      numberCell(owned),
      numberCell(held),
      numberCell(member.id === cluster.node ? "–" : latency(roundTrip)),
      numberCell(newest ? short(newest.sessions) : "–"),
      numberCell(newest ? perSecond(newest.published) : "–"),
    );
  }
}

/** @param {Member} member */
function state(member) {
  if (!member.reachable) return element("span", { class: "state critical" }, "✕ unreachable");
  if (member.state === "active") return element("span", { class: "state ok" }, "✓ active");
  return element("span", { class: "state warning" }, `! ${member.state}`);
}
