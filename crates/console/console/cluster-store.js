// The newest state of the cluster, polled once for all parts of the page.

import { poll } from "./poll.js";
import { read } from "./session.js";

/** @typedef {import("./types.js").Cluster} Cluster */
/** @typedef {(cluster: Cluster | undefined, error: unknown) => void} Listener */

/** The pause between two polls: a move of a shard takes seconds. */
const PAUSE = 2_000;

export class ClusterStore {
  /** @type {Cluster | undefined} */
  #cluster;
  /** @type {unknown} */
  #error;
  /** @type {Set<Listener>} */
  #listeners = new Set();
  /** @type {(() => void) | undefined} */
  #stop;

  /** Polls from the beginning, with the token of now. */
  start() {
    this.#stop?.();
    this.#stop = poll(
      async (signal) => {
        this.#cluster = await read("cluster", {}, signal);
      },
      PAUSE,
      (error) => {
        this.#error = error;
        this.#listeners.forEach((listener) => listener(this.#cluster, error));
      },
    );
  }

  stop() {
    this.#stop?.();
    this.#cluster = undefined;
  }

  /** The newest state, if there is one. */
  get cluster() {
    return this.#cluster;
  }

  /** Calls `listener` now and with each answer. Returns what ends it. @param {Listener} listener @returns {() => void} */
  watch(listener) {
    this.#listeners.add(listener);
    if (this.#cluster || this.#error) listener(this.#cluster, this.#error);
    return () => this.#listeners.delete(listener);
  }

  /** The name of a node, or its id. @param {string | null} id */
  name(id) {
    return this.#cluster?.members.find((member) => member.id === id)?.name ?? id ?? "none";
  }
}
