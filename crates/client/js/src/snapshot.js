// The newest message of a topic over HTTP: for the load of a page, before its connection is open. Loaded only when it is
// used.

/** @import { Snapshot } from "./types.js" */

/**
 * @param {typeof globalThis.fetch} fetch
 * @param {typeof import("./http-error.js").httpError} httpError
 * @param {string} base the address of the node
 * @param {string} topic
 * @param {string} [token]
 * @returns {Promise<Snapshot>}
 */
export async function fetchSnapshot(fetch, httpError, base, topic, token) {
  const path = topic.split("/").map(encodeURIComponent).join("/");
  const headers = token === undefined ? undefined : { authorization: `Bearer ${token}` };
  const response = await fetch(`${base}/topics/${path}`, { headers });
  const position = response.headers.get("pushonce-position") ?? "0:0";
  // Everything that is published from now on comes after 0:0.
  if (response.status === 404) return { data: undefined, position };
  if (!response.ok) throw await httpError(response);
  const contentType = response.headers.get("content-type") ?? "application/octet-stream";
  return { data: await readBody(response, contentType), position, contentType };
}

/** The payload as in a message. @param {Response} response @param {string} contentType */
async function readBody(response, contentType) {
  if (contentType === "application/json") return response.json();
  if (/^text\/plain(; *charset=utf-8)?$/i.test(contentType)) return response.text();
  return new Uint8Array(await response.arrayBuffer());
}
