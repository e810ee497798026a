// The ring of shards as a picture: the outer band is the owner of each shard, the inner bands are its other replicas.

import { hasOwner, missingReplicas } from "./health.js";
import { element, fill, svg } from "./dom.js";
import { plural } from "./format.js";

/** @typedef {import("./types.js").Cluster} Cluster */
/** @typedef {import("./types.js").Shard} Shard */

const SIZE = 360;
const CENTER = SIZE / 2;
const OUTER = 158;
const OWNER_BAND = 34;
const REPLICA_BAND = 12;
const GAP = 3;

/** The most shards whose arcs have room for a label. */
const LABELLED_MAX = 48;

/** Number of colours in the style sheet. */
export const COLOURS = 12;

/** The number that stands for each node in the picture, beside its colour. @param {Cluster} cluster */
export function numbers(cluster) {
  return new Map(cluster.members.map(({ id }, index) => [id, index]));
}

/** The class with the colour of a node. @param {number | undefined} number */
export const colourClass = (number) => (number === undefined ? "node-none" : `node-${number % COLOURS}`);

export class Ring {
  #picture = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "ring", role: "img" });
  element = element(
    "figure",
    { class: "ring-figure" },
    this.#picture,
    element(
      "figcaption",
      { class: "note" },
      "Outer band: owner. Inner bands: other replicas. Rim: moves, missing replicas.",
    ),
  );
  /** @type {string | undefined} */
  #drawn;
  /** @type {number | undefined} */
  #emphasised;

  /** @param {Cluster} cluster @param {(id: string | null) => string} name */
  update(cluster, name) {
    const { shards, moves, members, replicas } = cluster;
    const state = JSON.stringify([shards, moves, members.map(({ id, reachable }) => [id, reachable]), replicas]);
    if (state === this.#drawn) return;
    this.#drawn = state;
    const arcs = cluster.shards.map((shard, index) => this.#shard(cluster, shard, index, name));
    fill(this.#picture, ...arcs, ...center(cluster));
    this.#picture.setAttribute("aria-label", describe(cluster, name));
    this.emphasise(this.#emphasised);
  }

  /** Emphasises the shards of a node. @param {number | undefined} number */
  emphasise(number) {
    this.#emphasised = number;
    this.#picture.classList.toggle("dimmed", number !== undefined);
    for (const arc of this.#picture.querySelectorAll("[data-number]")) {
      arc.classList.toggle("emphasised", arc.getAttribute("data-number") === String(number));
    }
  }

  /** @param {Cluster} cluster @param {Shard} shard @param {number} index @param {(id: string | null) => string} name */
  #shard(cluster, shard, index, name) {
    const number = numbers(cluster);
    const count = cluster.shards.length;
    const [begin, end] = [(index / count) * 2 * Math.PI, ((index + 1) / count) * 2 * Math.PI];
    const move = cluster.moves.find((it) => it.shard === shard.shard);
    const missing = missingReplicas(cluster)(shard);
    const others = shard.replicas.filter((id) => id !== shard.owner);
    const rows = Math.max(cluster.replicas, shard.replicas.length) - 1;
    const text = `Shard ${shard.shard}: owner ${name(shard.owner)}, replicas ${shard.replicas.map(name).join(", ")}`;
    const group = svg("g", { class: "shard" }, svg("title", {}, move ? `${text}. ${move.text}` : text));
    const owner = hasOwner(cluster)(shard) ? number.get(shard.owner ?? "") : undefined;
    group.append(band(begin, end, OUTER - OWNER_BAND, OUTER, `arc ${colourClass(owner)}`, owner));
    if (count <= LABELLED_MAX) group.append(label(begin, end, owner === undefined ? "?" : String(owner + 1)));
    for (let row = 0; row < rows; row += 1) {
      const outer = OUTER - OWNER_BAND - GAP - row * (REPLICA_BAND + GAP);
      const replica = others[row];
      const isGone = replica === undefined || !cluster.members.find(({ id }) => id === replica)?.reachable;
      const replicaNumber = isGone ? undefined : number.get(replica);
      const className = isGone ? "arc missing" : `arc replica ${colourClass(replicaNumber)}`;
      group.append(band(begin, end, outer - REPLICA_BAND, outer, className, replicaNumber));
    }
    if (move) group.append(band(begin, end, OUTER + 5, OUTER + 10, "arc move"));
    else if (missing) group.append(band(begin, end, OUTER + 5, OUTER + 10, "arc short"));
    return group;
  }
}

/** @param {Cluster} cluster @param {(id: string | null) => string} name */
function describe(cluster, name) {
  const owned = cluster.members.map(({ id }) => {
    const count = cluster.shards.filter((shard) => shard.owner === id).length;
    return `${name(id)} owns ${count}`;
  });
  return `Ring of ${cluster.shards.length} shards: ${owned.join(", ")}`;
}

/** @param {Cluster} cluster */
function center(cluster) {
  const missing = missingReplicas(cluster);
  const short = cluster.shards.filter((shard) => missing(shard) > 0).length;
  const note = short
    ? `${short} short of replicas`
    : cluster.moves.length
      ? `${plural(cluster.moves.length, "move")} pending`
      : "all in place";
  return [
    svg("text", { x: CENTER, y: CENTER - 2, class: "ring-count" }, cluster.shards.length),
    svg("text", { x: CENTER, y: CENTER + 18, class: "ring-note" }, cluster.shards.length === 1 ? "shard" : "shards"),
    svg("text", { x: CENTER, y: CENTER + 36, class: "ring-note" }, note),
  ];
}

/**
 * A part of a band, with a small gap to the next, and with the number of its node.
 * @param {number} begin @param {number} end @param {number} inner @param {number} outer
 * @param {string} className @param {number} [number]
 */
function band(begin, end, inner, outer, className, number) {
  const gap = Math.min(0.008, (end - begin) / 8);
  const [from, to] = [begin + gap, end - gap];
  const isLarge = to - from > Math.PI ? 1 : 0;
  const at = (/** @type {number} */ angle, /** @type {number} */ radius) => {
    return `${(CENTER + radius * Math.sin(angle)).toFixed(2)} ${(CENTER - radius * Math.cos(angle)).toFixed(2)}`;
  };
  const d =
    `M${at(from, outer)}A${outer} ${outer} 0 ${isLarge} 1 ${at(to, outer)}` +
    `L${at(to, inner)}A${inner} ${inner} 0 ${isLarge} 0 ${at(from, inner)}Z`;
  return svg("path", { d, class: className, "data-number": number });
}

/** @param {number} begin @param {number} end @param {string} text */
function label(begin, end, text) {
  const [angle, radius] = [(begin + end) / 2, OUTER - OWNER_BAND / 2];
  const [x, y] = [CENTER + radius * Math.sin(angle), CENTER - radius * Math.cos(angle)];
  return svg("text", { x: x.toFixed(1), y: (y + 4).toFixed(1), class: "arc-label" }, text);
}
