// The fragment of the address: every view has a link.

/** @typedef {{ view: string, path: string, parameters: URLSearchParams }} Route */

/** `#/topics/chat/7?after=x` is the view `topics` with the path `chat/7`. @param {string} hash @returns {Route} */
export function parse(hash) {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [view = "", ...segments] = path.split("/");
  return { view: view || "cluster", path: segments.map(decode).join("/"), parameters: new URLSearchParams(query) };
}

/** The link of a view. @param {string} view @param {string} [path] @param {{ [name: string]: string }} [parameters] */
export function link(view, path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const encoded = path === undefined ? "" : `/${path.split("/").map(encodeURIComponent).join("/")}`;
  return `#/${view}${encoded}${query && `?${query}`}`;
}

/** A segment that is no valid encoding stays as it is. @param {string} segment */
function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
