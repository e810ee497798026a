// A TCP proxy that breaks connections as networks do.

import { connect, createServer } from "node:net";

export class TcpProxy {
  #server;
  #connections = new Set();
  /** Whether bytes of the node are dropped, so that a client sends and hears nothing. */
  isMuted = false;

  /** @param {string} address of the node, HOST:PORT */
  static async start(address) {
    const proxy = new TcpProxy();
    const [host, port] = address.split(":");
    proxy.#server = createServer((client) => proxy.#accept(client, connect(Number(port), host)));
    await new Promise((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.#server.address().port}`;
    return proxy;
  }

  #accept(client, node) {
    this.#connections.add(client);
    client.pipe(node);
    node.on("data", (bytes) => this.isMuted || client.write(bytes));
    const end = () => {
      this.#connections.delete(client);
      client.destroy();
      node.destroy();
    };
    for (const socket of [client, node]) socket.on("error", end).on("close", end);
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
