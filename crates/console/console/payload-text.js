// A payload as text for the screen.

/** Longer payloads are cut. */
const LENGTH_MAX = 20_000;

/** Longer JSON is broken into lines. */
const LINE_MAX = 160;

/** @param {unknown} data a JSON value, a string, or bytes */
export function payloadText(data) {
  const text = data instanceof Uint8Array ? hex(data) : typeof data === "string" ? data : json(data);
  const rest = text.length - LENGTH_MAX;
  return rest > 0 ? `${text.slice(0, LENGTH_MAX)} … ${rest} more characters` : text;
}

/** @param {unknown} data */
function json(data) {
  const line = JSON.stringify(data) ?? "";
  return line.length > LINE_MAX ? JSON.stringify(data, undefined, 2) : line;
}

/** @param {Uint8Array} data */
function hex(data) {
  const shown = [...data.subarray(0, LENGTH_MAX)];
  return shown.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
}
