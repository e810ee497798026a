// Whether all is well, in one line.

import { plural } from "./format.js";

/** @typedef {import("./types.js").Cluster} Cluster */

/**
 * @typedef {object} Health
 * @property {"ok" | "warning" | "critical" | "unknown"} level
 * @property {string} mark a sign for the level, so that colour is not the only one
 * @property {string} title
 * @property {string[]} facts
 */

/** @param {Cluster | undefined} cluster @param {unknown} error @returns {Health} */
export function assess(cluster, error) {
  if (error || !cluster) {
    const title = error ? "No data from this node" : "Loading";
    return { level: "unknown", mark: "?", title, facts: error ? [String(/** @type {Error} */ (error).message)] : [] };
  }
  const facts = describe(cluster);
  const problems = cluster.problems.length;
  if (!problems) return { level: "ok", mark: "✓", title: "All is well", facts };
  const isCritical = cluster.problems.some(({ severity }) => severity === "unavailable");
  const title = plural(problems, "problem");
  return isCritical ? { level: "critical", mark: "✕", title, facts } : { level: "warning", mark: "!", title, facts };
}

/** Whether the owner of a shard is known and reachable. @param {Cluster} cluster */
export function hasOwner(cluster) {
  const reachable = new Set(cluster.members.filter((member) => member.reachable).map(({ id }) => id));
  return (/** @type {import("./types.js").Shard} */ shard) => shard.owner !== null && reachable.has(shard.owner);
}

/** How many replicas on reachable nodes a shard lacks. @param {Cluster} cluster */
export function missingReplicas(cluster) {
  const reachable = new Set(cluster.members.filter((member) => member.reachable).map(({ id }) => id));
  return (/** @type {import("./types.js").Shard} */ shard) =>
    Math.max(cluster.replicas - shard.replicas.filter((id) => reachable.has(id)).length, 0);
}

/** @param {Cluster} cluster */
function describe(cluster) {
  const reachable = cluster.members.filter((member) => member.reachable).length;
  const owned = cluster.shards.filter(hasOwner(cluster)).length;
  const missing = missingReplicas(cluster);
  const short = cluster.shards.filter((shard) => missing(shard) > 0).length;
  const moving = cluster.moves.length;
  return [
    `${reachable} of ${plural(cluster.members.length, "node")} reachable`,
    `${owned} of ${plural(cluster.shards.length, "shard")} with an owner`,
    short ? `${plural(short, "shard")} with too few replicas` : `${plural(cluster.replicas, "replica")} of each shard`,
    moving ? `${plural(moving, "move")} pending` : "nothing is moving",
  ];
}
