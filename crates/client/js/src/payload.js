// Payloads: between values of the application and the members `data`, `encoding` and `content_type` of a frame.

/** @import { Frame, Message } from "./types.js" */

/** @param {string} base64 */
export const toBytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/**
 * The members of a publish for a payload.
 * @param {any} data
 * @param {string} [contentType]
 * @returns {Frame}
 */
export function encode(data, contentType) {
  const frame = contentType ? { content_type: contentType } : {};
  if (data instanceof ArrayBuffer) data = new Uint8Array(data);
  if (data instanceof Uint8Array) return { ...frame, encoding: "base64", data: toBase64(data) };
  if (JSON.stringify(data) === undefined) throw new TypeError(`a ${typeof data} is no JSON value`);
  return { ...frame, data };
}

/**
 * The message of a frame.
 * @param {Frame} frame
 * @returns {Message}
 */
export function decode({ topic, position, time, key, data, encoding, content_type: contentType }) {
  const isBinary = encoding === "base64";
  contentType ??= isBinary ? "application/octet-stream" : typeof data === "string" ? "text/plain" : "application/json";
  return {
    topic,
    position,
    time,
    ...(key && { key }),
    contentType,
    data: isBinary && typeof data === "string" ? toBytes(data) : data,
  };
}
