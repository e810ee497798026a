// A TCP proxy that breaks connections as networks do.

import { connect, createServer } from "node:net";

export class TcpProxy {
  #server;
  #connections = new Set();
  #frozen = new WeakSet();
  /** Whether bytes of the node are dropped. */
  isMuted = false;

  /** @param {string} address of the node, HOST:PORT */
  static async start(address, listenOn = 0) {
    const proxy = new TcpProxy();
    const [host, port] = address.split(":");
    proxy.#server = createServer((client) => proxy.#accept(client, connect(Number(port), host)));
    await new Promise((resolve) => proxy.#server.listen(listenOn, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.#server.address().port}`;
    return proxy;
  }

  #accept(client, node) {
    this.#connections.add(client);
    const isPassing = () => !this.#frozen.has(client);
    client.on("data", (bytes) => isPassing() && node.write(bytes));
    node.on("data", (bytes) => isPassing() && !this.isMuted && client.write(bytes));
    const end = () => {
      this.#connections.delete(client);
      client.destroy();
      node.destroy();
    };
    for (const socket of [client, node]) socket.on("error", end).on("close", end);
  }

  /** The present connections carry nothing any more, and do not end. */
  freeze() {
    for (const client of this.#connections) this.#frozen.add(client);
  }

  /** Ends every connection. */
  cut() {
    for (const client of this.#connections) client.destroy();
  }

  async stop() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
