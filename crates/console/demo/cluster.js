// The nodes of the demo, asked from any of them that answers.

/** @typedef {{ number: number, name: string, http: number, state: "starting" | "up" | "stopping" | "down" }} DemoNode */
/** @typedef {{ publishes: number, deliveries: number, sent_bytes: number, seconds: number }} Counters */
/** @typedef {{ nodes: DemoNode[], owners: (string | null)[], counters: Counters }} ClusterState */

const POLL_EVERY = 1_000;
/** While a node stops or starts. */
const POLL_FAST = 200;
const TIMEOUT = 2_000;

/** The address of a node as this page reaches it. @param {DemoNode} node */
export const urlOf = ({ http }) => `${location.protocol}//${location.hostname}:${http}`;

/** @param {string} url @returns {Promise<ClusterState>} */
async function fetchState(url) {
  const response = await fetch(`${url}/demo/state`, { signal: AbortSignal.timeout(TIMEOUT) });
  if (!response.ok) throw new Error(`${response.status}`);
  return response.json();
}

/** The first state, from the node that serves this page. The browser has begun this request before the modules came. */
export const loadState = async () => (await fetch("/demo/state")).json();

export class Cluster {
  /** @type {ClusterState} */
  #state;
  #onState;
  #preferred;
  #timer = 0;

  /**
   * @param {ClusterState} state
   * @param {() => string} preferred the address of the node that the page is connected to
   * @param {(state: ClusterState) => void} onState
   */
  constructor(state, preferred, onState) {
    this.#state = state;
    this.#preferred = preferred;
    this.#onState = onState;
    onState(state);
    this.#schedule();
  }

  get state() {
    return this.#state;
  }

  /**
   * Stops a node or starts it. Asked of another node: the one that stops may not answer.
   * @param {DemoNode} node
   * @param {"stop" | "start"} action
   * @returns {Promise<string | undefined>} why it was refused
   */
  async act(node, action) {
    const refusal = await this.#askLiving(
      async (url) => {
        const response = await fetch(`${url}/demo/nodes/${node.number}/${action}`, { method: "POST" });
        return response.ok ? undefined : response.text();
      },
      (other) => other.number !== node.number,
    );
    await this.#poll();
    return refusal;
  }

  #schedule() {
    clearTimeout(this.#timer);
    const isQuiet = this.#state.nodes.every(({ state }) => state === "up" || state === "down");
    this.#timer = setTimeout(() => this.#poll(), isQuiet && this.#hasOwners() ? POLL_EVERY : POLL_FAST);
  }

  #hasOwners() {
    return this.#state.owners.length > 0 && this.#state.owners.every(Boolean);
  }

  async #poll() {
    clearTimeout(this.#timer);
    try {
      this.#state = await this.#askLiving(fetchState, () => true);
      this.#onState(this.#state);
    } catch {
      // No node answered in time. The state of the connection shows it, and the next request may succeed.
    }
    this.#schedule();
  }

  /**
   * @template T
   * @param {(url: string) => Promise<T>} ask
   * @param {(node: DemoNode) => boolean} isCandidate
   * @returns {Promise<T>}
   */
  async #askLiving(ask, isCandidate) {
    const candidates = this.#state.nodes.filter((node) => node.state === "up" && isCandidate(node)).map(urlOf);
    const preferred = this.#preferred();
    candidates.sort((a, b) => Number(b === preferred) - Number(a === preferred));
    let failure;
    for (const url of candidates) {
      try {
        return await ask(url);
      } catch (error) {
        failure = error;
      }
    }
    throw failure ?? new Error("no node is up");
  }
}
