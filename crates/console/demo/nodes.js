// The nodes: the one of this page, the owners of the shards, and the buttons that kill a node and bring it back.

import { urlOf } from "./cluster.js";
import { byId, element, setText } from "./dom.js";

/** @typedef {import("./cluster.js").DemoNode} DemoNode */
/** @typedef {import("./cluster.js").ClusterState} ClusterState */

const LABELS = { up: "up", starting: "starting", stopping: "stopping", down: "down" };
const LOG_SHOWN = 6;

class NodeRow {
  #name = element("span", "");
  #state = element("span", "node-state");
  #owned = element("span", "owned");
  #here = element("span", "here", "this page");
  #button = element("button", "");
  root = element(
    "li",
    "node",
    element("span", "node-name", this.#name, this.#here),
    element("span", "node-facts", this.#state, this.#owned),
    this.#button,
  );
  /** @type {DemoNode} */
  node;

  /** @param {DemoNode} node @param {(row: NodeRow) => void} onPress */
  constructor(node, onPress) {
    this.node = node;
    this.root.dataset.node = String(node.number);
    setText(this.#name, node.name);
    this.#button.type = "button";
    this.#button.setAttribute("aria-describedby", "kill-rule");
    this.#button.addEventListener("click", () => {
      // `aria-disabled` keeps the focus where it is when the state changes.
      if (this.#button.getAttribute("aria-disabled") !== "true") onPress(this);
    });
  }

  /** @param {DemoNode} node @param {number} owned @param {boolean} isHere @param {boolean} isAllowed */
  show(node, owned, isHere, isAllowed) {
    this.node = node;
    this.root.dataset.state = node.state;
    setText(this.#state, LABELS[node.state]);
    setText(this.#owned, `owns ${owned} shard${owned === 1 ? "" : "s"}`);
    this.#here.hidden = !isHere;
    const isDown = node.state === "down" || node.state === "starting";
    this.#button.className = isDown ? "start" : "kill";
    setText(this.#button, `${isDown ? "Bring back" : "Kill"} ${node.name}`);
    this.#button.setAttribute("aria-disabled", String(!isAllowed));
  }
}

export class Nodes {
  /** @type {NodeRow[]} */
  #rows = [];
  /** @type {HTMLElement[]} */
  #shards = [];
  #act;
  /** When the last node was killed, while shards have no owner. @type {number | undefined} */
  #killedAt;

  /** @param {(node: DemoNode, action: "stop" | "start") => Promise<string | undefined>} act */
  constructor(act) {
    this.#act = act;
  }

  /** @param {ClusterState} state @param {string} url the address of the node that this page uses, or "" */
  show({ nodes, owners }, url) {
    if (!this.#rows.length) {
      this.#rows = nodes.map((node) => new NodeRow(node, (row) => this.#press(row)));
      byId("nodes").replaceChildren(...this.#rows.map(({ root }) => root));
    }
    const areAllUp = nodes.every(({ state }) => state === "up");
    nodes.forEach((node, index) => {
      const owned = owners.filter((owner) => owner === node.name).length;
      const isAllowed = node.state === "down" || (areAllUp && node.state === "up");
      this.#rows[index].show(node, owned, urlOf(node) === url, isAllowed);
    });
    if (owners.length) this.#showShards(nodes, owners);
    if (this.#killedAt && owners.length && this.#ownersAreUp(nodes, owners)) {
      const seconds = ((performance.now() - this.#killedAt) / 1_000).toFixed(1);
      this.#killedAt = undefined;
      this.log(`Every shard has an owner again, ${seconds} s after the kill.`);
    }
  }

  /** Adds a line about what happened. @param {string} text */
  log(text) {
    const time = element("time", "", new Date().toLocaleTimeString("en", { hour12: false }));
    byId("node-log").prepend(element("li", "", time, " ", text));
    while (byId("node-log").children.length > LOG_SHOWN) byId("node-log").lastElementChild?.remove();
  }

  /** @param {DemoNode[]} nodes @param {(string | null)[]} owners */
  #ownersAreUp(nodes, owners) {
    const up = new Set(nodes.filter(({ state }) => state === "up").map(({ name }) => name));
    return up.size < nodes.length && owners.every((owner) => owner !== null && up.has(owner));
  }

  /** @param {DemoNode[]} nodes @param {(string | null)[]} owners */
  #showShards(nodes, owners) {
    if (this.#shards.length !== owners.length) {
      this.#shards = owners.map(() => element("i", ""));
      byId("shards").replaceChildren(...this.#shards);
    }
    owners.forEach((owner, shard) => {
      this.#shards[shard].dataset.node = String(nodes.find(({ name }) => name === owner)?.number ?? "");
    });
  }

  /** @param {NodeRow} row */
  async #press({ node }) {
    const action = node.state === "down" ? "start" : "stop";
    if (action === "stop") this.#killedAt = performance.now();
    this.log(action === "stop" ? `${node.name} is killed.` : `${node.name} starts again, with its data.`);
    const refusal = await this.#act(node, action).catch((error) => `No node answered: ${error.message}`);
    if (!refusal) return;
    this.#killedAt = undefined;
    this.log(refusal);
  }
}
