// A payload as text for the screen.

/** Longer payloads are cut. */
const LENGTH_MAX = 20_000;

/** @param {unknown} data a JSON value, a string, or bytes */
export function payloadText(data) {
  const text =
    data instanceof Uint8Array ? hex(data) : typeof data === "string" ? data : JSON.stringify(data, undefined, 1);
  return text.length > LENGTH_MAX ? `${text.slice(0, LENGTH_MAX)} … ${text.length - LENGTH_MAX} more characters` : text;
}

/** @param {Uint8Array} data */
function hex(data) {
  const shown = [...data.subarray(0, LENGTH_MAX / 3)];
  return shown.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
}
