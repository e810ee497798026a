// The addresses of nodes.

/**
 * The base address of a node, `http://HOST:PORT` or `https://…`, from what an application writes: also `ws://…`,
 * `wss://…`, the address of `/ws`, and on a page an address relative to it.
 * @param {string | URL} address
 * @returns {string}
 */
export function baseUrl(address) {
  const url = new URL(address, globalThis.location?.href);
  url.protocol = url.protocol.replace("ws", "http");
  if (!/^https?:$/.test(url.protocol)) throw new TypeError(`${address} is not https://, http://, wss:// or ws://`);
  return url.origin + url.pathname.replace(/(\/ws)?\/?$/, "");
}
