// Publishes messages and reports one of three outcomes: acknowledged, rejected or unknown.
//
//   node publisher.js chat/7 '{"text":"goal!"}' 127.0.0.1:7090 127.0.0.1:7190

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { status } from "@grpc/grpc-js";
import { Cluster } from "./cluster.js";
import { acknowledged, failed } from "./outcome.js";
import { Attempts, DEADLINE_MS } from "./retry.js";

/** Publishes to one node of the cluster until it fails, then to the next. */
export class Publisher {
  #cluster;
  #clients;
  #deadlineMs;
  #current = 0;

  /** @param {Cluster} cluster @param {number} [deadlineMs] */
  constructor(cluster, deadlineMs = DEADLINE_MS) {
    this.#cluster = cluster;
    this.#clients = cluster.clients();
    this.#deadlineMs = deadlineMs;
  }

  /**
   * Publishes one message and waits for its outcome, at most for the deadline. Messages that are published at the same time
   * have no order.
   *
   * The message is stored once, however many attempts it takes. That holds for a later call, too, and after a restart of
   * this program, if it has the same `key` within five minutes.
   * @param {string} topic @param {Buffer | string} payload @param {{ key?: string, contentType?: string }} [options]
   * @returns {Promise<import("./outcome.js").Outcome>}
   */
  async publish(topic, payload, { key = "", contentType = "" } = {}) {
    // Without a key a nonce makes a repetition safe; subscribers do not receive it.
    const nonce = key ? undefined : randomBytes(16);
    const request = { topic, payload: Buffer.from(payload), key, nonce, content_type: contentType };
    const attempts = new Attempts(this.#deadlineMs);
    for (;;) {
      const outcome = await this.#try(request, attempts.deadline());
      if (outcome.kind === "acknowledged") return outcome;
      const delay = attempts.delayAfter(outcome);
      if (delay === undefined) return attempts.final(outcome);
      await sleep(delay);
    }
  }

  async #try(request, deadline) {
    const server = this.#current;
    const metadata = this.#cluster.metadata();
    try {
      const response = await new Promise((resolve, reject) => {
        const settle = (error, value) => (error ? reject(error) : resolve(value));
        this.#clients[server].Publish(request, metadata, { deadline }, settle);
      });
      return acknowledged(response);
    } catch (error) {
      const outcome = failed(error);
      const mayAnotherNodeDoBetter = outcome.kind === "unknown" || error.code === status.UNAVAILABLE;
      if (mayAnotherNodeDoBetter && this.#current === server) this.#current = (server + 1) % this.#clients.length;
      return outcome;
    }
  }

  /** Closes the connections. */
  close() {
    for (const client of this.#clients) client.close();
  }
}

async function main(topic, text, ...servers) {
  const publisher = new Publisher(new Cluster(servers));
  const outcome = await publisher.publish(topic, text);
  publisher.close();
  switch (outcome.kind) {
    case "acknowledged":
      console.log(outcome.position);
      return 0;
    case "rejected":
      console.error(`not stored (${outcome.reason}): ${outcome.message}`);
      return 1;
    case "unknown":
      console.error(`may be stored: ${outcome.message}`);
      return 2;
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) process.exitCode = await main(...process.argv.slice(2));
