// The demo as a process of its own, on ports that nothing else uses.

import { spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { waitUntil } from "../../client/js/test/integration/nodes.js";

const ROOT = join(import.meta.dirname, "../../..");
const BINARY = process.env.PUSHONCE ?? join(ROOT, "target/debug/pushonce");

/** Screenshots and logs. */
export const OUTPUT = join(ROOT, "target/pages");

/** The HTTP ports without an offset. */
const PORTS = [7080, 7180, 7280];
/** The offset keeps all ports between those of services and those that the system gives to clients. */
const OFFSETS = [4_000, 20_000];
const ATTEMPTS = 5;

export class DemoProcess {
  #child;
  #ended;
  #offset;

  /** Starts the demo, on other ports when these are taken. @param {...string} flags */
  static async start(...flags) {
    await mkdir(OUTPUT, { recursive: true });
    for (let attempt = 1; ; attempt += 1) {
      const demo = new DemoProcess(flags);
      const isServing = await demo.#isServing().catch((error) => demo.stop().then(() => Promise.reject(error)));
      if (isServing) return demo;
      if (attempt === ATTEMPTS) throw new Error(`the demo ended, see ${OUTPUT}/demo.log`);
    }
  }

  /** @param {string[]} flags */
  constructor(flags) {
    const [least, most] = OFFSETS;
    this.#offset = least + Math.floor(Math.random() * (most - least));
    this.#child = spawn(BINARY, ["demo", "--offset", String(this.#offset), ...flags], { stdio: "pipe" });
    const log = createWriteStream(join(OUTPUT, "demo.log"));
    this.#child.stdout.pipe(log);
    this.#child.stderr.pipe(log);
    this.#ended = new Promise((resolve) => this.#child.once("exit", resolve));
  }

  /** The addresses of the nodes. */
  get urls() {
    return PORTS.map((port) => `http://127.0.0.1:${port + this.#offset}`);
  }

  /** Waits until all nodes serve. Returns false when the process has ended. */
  async #isServing() {
    await waitUntil("all nodes of the demo are up", async () => {
      if (this.#child.exitCode !== null) return true;
      const state = await this.state().catch(() => undefined);
      // A node that joins answers with an error.
      return state?.nodes?.every((node) => node.state === "up");
    });
    return this.#child.exitCode === null;
  }

  /** The JSON of `/demo/state`, from a node. */
  async state(url = this.urls[2]) {
    const response = await fetch(`${url}/demo/state`, { signal: AbortSignal.timeout(5_000) });
    return response.json();
  }

  async stop() {
    this.#child.kill("SIGINT");
    await this.#ended;
  }
}
