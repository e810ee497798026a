// Real nodes on loopback, and what tests do to them.

import { execFile, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const BINARY = process.env.PUSHONCE ?? join(import.meta.dirname, "../../../../../target/debug/pushonce");

/** Far longer than anything takes that a test waits for; reached only on failure. */
export const PATIENCE = 60_000;

/** A directory and processes that end with the test. */
export class Testbed {
  #directory;
  #nodes = [];

  /** @param {import("node:test").TestContext} context */
  static async create(context) {
    const testbed = new Testbed();
    testbed.#directory = await mkdtemp(join(tmpdir(), "pushonce-js."));
    context.after(() => testbed.#end());
    return testbed;
  }

  path(name) {
    return join(this.#directory, name);
  }

  /** Starts a node that is a cluster of its own. */
  async node(...flags) {
    return this.#start("solo", ["--dev", ...flags]);
  }

  /** Starts a cluster of three nodes. */
  async cluster(...flags) {
    await this.command(["init", "--name", "a", "--data", this.path("a")]);
    const a = await this.#start("a", ["--name", "a", "--data", this.path("a"), ...flags]);
    const join = (name) => this.#start(name, ["--name", name, "--data", this.path(name), "--join", a.peer, ...flags]);
    const nodes = [a, ...(await Promise.all([join("b"), join("c")]))];
    await waitUntil("every shard has three replicas", async () => {
      // Exit code 3: not yet.
      const status = await this.command(["cluster", "status", "--server", a.grpc]).catch((error) => error);
      return status.stdout?.includes("nothing is moving") && !status.code;
    });
    return nodes;
  }

  /** Makes a key for tokens. Returns the flags for nodes, and a function that makes tokens. */
  async issuer() {
    const { stdout } = await this.command(["token", "key", this.path("key.pem")]);
    const { writeFile } = await import("node:fs/promises");
    await writeFile(this.path("issuers.toml"), stdout);
    const mint = async (...flags) => {
      const minted = await this.command(["token", "mint", "--key", this.path("key.pem"), ...flags]);
      return minted.stdout.trim();
    };
    return { flags: ["--issuers", this.path("issuers.toml")], mint };
  }

  /** Runs a command of the binary. */
  async command(args, env = {}) {
    return promisify(execFile)(BINARY, args, { env: { ...process.env, ...env }, timeout: PATIENCE });
  }

  async #start(name, flags) {
    const [http, quic, grpc, peer] = await freePorts(4);
    const addresses = {
      http: `127.0.0.1:${http}`,
      quic: `127.0.0.1:${quic}`,
      grpc: `127.0.0.1:${grpc}`,
      peer: `127.0.0.1:${peer}`,
    };
    const args = ["serve", ...flags, ...Object.entries(addresses).flatMap(([flag, address]) => [`--${flag}`, address])];
    const child = spawn(BINARY, args, { stdio: ["ignore", "pipe", "pipe"] });
    const log = createWriteStream(this.path(`${name}.log`));
    child.stdout.pipe(log);
    child.stderr.pipe(log);
    const node = new Node(child, addresses);
    this.#nodes.push(node);
    await waitUntil(`node ${name} is ready`, async () => {
      if (child.exitCode !== null) throw new Error(`node ${name} ended with ${child.exitCode}, see ${log.path}`);
      // With a timeout: now and then, `fetch` of Node 20 neither connects nor fails while the port is being opened.
      const signal = AbortSignal.timeout(5_000);
      const response = await fetch(`${node.url}/health/ready`, { signal }).catch(() => undefined);
      return response?.ok;
    });
    return node;
  }

  async #end() {
    await Promise.all(this.#nodes.map((node) => node.kill()));
    await rm(this.#directory, { recursive: true });
  }
}

class Node {
  #child;
  #ended;

  constructor(child, { http, grpc, peer }) {
    this.#child = child;
    this.#ended = new Promise((resolve) => child.once("exit", resolve));
    this.url = `http://${http}`;
    this.address = http;
    this.grpc = `http://${grpc}`;
    this.peer = peer;
  }

  /** Ends the node at once, as a crash does. */
  async kill() {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  /** Asks the node to drain, and waits for its end. */
  async stop() {
    this.#child.kill("SIGTERM");
    await this.#ended;
  }
}

/** Waits until a condition holds. @param {string} condition @param {() => unknown} holds */
export async function waitUntil(condition, holds) {
  const end = Date.now() + PATIENCE;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`timed out after ${PATIENCE} ms waiting until ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/**
 * Fails when a promise is not settled in time.
 * @template T
 * @param {string} what
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
export async function inTime(what, promise) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out after ${PATIENCE} ms waiting for ${what}`)), PATIENCE);
  });
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}

async function freePorts(count) {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
      return server;
    }),
  );
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
