// Where the tail begins, as an operator writes it.

/**
 * `now`, `start`, `last:20`, or a position such as `12:4051`: everything after it.
 * @param {string} text
 * @returns {import("/sdk/index.js").StartFrom | undefined} `undefined` when it is none of these
 */
export function parseStart(text) {
  const start = text.trim();
  if (start === "now" || start === "start") return start;
  const last = /^last:(\d{1,5})$/.exec(start);
  if (last) return { last: Number(last[1]) };
  return /^\d+:\d+$/.test(start) ? { position: start } : undefined;
}
