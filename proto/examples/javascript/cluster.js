// Where the nodes are, and what a caller shows them.

import { Metadata, credentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

// Copy the file, or point at it in a checkout.
const PROTO = process.env.PUBLISHER_PROTO ?? `${import.meta.dirname}/../../pushonce/publisher/v1/publisher.proto`;

// 64-bit numbers are strings: a number of JavaScript has 53 bits.
const definition = loadSync(PROTO, { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true });
const { PublisherService } = loadPackageDefinition(definition).pushonce.publisher.v1;

const OPTIONS = {
  // A node that restarts is back within a second; by default a channel waits up to two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.min_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  // Finds a connection that died without a word (a host without power) during a subscription.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
};

/** The nodes of a cluster: any node takes any call. */
export class Cluster {
  #servers;
  #token;
  #roots;

  /**
   * @param {string[]} servers The addresses of gRPC, `host:port`.
   * @param {{ token?: () => string, roots?: Buffer | "public" }} [options] `token` returns a token that is valid now; nodes
   *   with issuers need it. `roots` turns TLS on: the certificates (PEM) of the authority of the nodes, or `"public"` for
   *   the public authorities.
   */
  constructor(servers, { token, roots } = {}) {
    if (servers.length === 0) throw new TypeError("a cluster needs at least one server");
    this.#servers = servers;
    this.#token = token;
    this.#roots = roots;
  }

  /** One client for each node. A client connects at its first call. */
  clients() {
    return this.#servers.map((server) => new PublisherService(server, this.#credentials(), OPTIONS));
  }

  /** The metadata of a call. */
  metadata() {
    const metadata = new Metadata();
    if (this.#token) metadata.set("authorization", `Bearer ${this.#token()}`);
    return metadata;
  }

  #credentials() {
    if (!this.#roots) return credentials.createInsecure();
    return this.#roots === "public" ? credentials.createSsl() : credentials.createSsl(this.#roots);
  }
}
