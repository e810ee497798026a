// Deltas in Fossil's format ("Delta Format" on fossil-scm.org). Loaded only by subscriptions that ask for them.
//
// A delta consists of the length of its result, a newline and segments: `COUNT@OFFSET,` copies from the base,
// `COUNT:TEXT` inserts text, and `CHECKSUM;` ends the delta. Numbers are in base 64 with Fossil's own digits.

/** @import { DeltaDecoder, Frame } from "./types.js" */

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
/** The node sends longer payloads whole. */
const BYTES_MAX = 1 << 20;

/** @param {(base64: string) => Uint8Array} toBytes @returns {DeltaDecoder} */
export function createDeltaDecoder(toBytes) {
  /** The bytes of the last message, as they were published. @type {Uint8Array | undefined} */
  let base;
  /** The last message that came whole: its content type is that of the deltas after it. @type {Frame} */
  let whole = {};
  return {
    reset() {
      base = undefined;
    },
    decode(message, text) {
      if (message.delta === undefined) {
        whole = message;
        base = message.encoding ? toBytes(message.data) : publishedBytes(message, text);
        return message;
      }
      if (!base) throw new InvalidDelta("it has no message before it");
      base = applyDelta(base, toBytes(message.delta));
      const { encoding, content_type } = whole;
      return { ...message, encoding, content_type, data: represent(base, whole) };
    },
  };
}

/** A delta that is malformed, or of another message. */
export class InvalidDelta extends Error {
  /** @param {string} reason */
  constructor(reason) {
    super(`invalid delta: ${reason}`);
  }
}

/** @param {Frame} message */
const isText = ({ data, content_type: contentType }) => typeof data === "string" && contentType !== "application/json";

/** The member `data` for a payload; bytes stay bytes. @param {Uint8Array} bytes @param {Frame} whole */
function represent(bytes, whole) {
  if (whole.encoding) return bytes.slice();
  const text = new TextDecoder().decode(bytes);
  return isText(whole) ? text : JSON.parse(text);
}

/**
 * The bytes of JSON or text. `JSON.stringify` may write a value differently; its bytes are the end of the frame.
 * @param {Frame} message
 * @param {string} text
 */
function publishedBytes(message, text) {
  return new TextEncoder().encode(isText(message) ? message.data : text.slice(text.indexOf('"data":') + 7, -2));
}

/**
 * @param {Uint8Array} base
 * @param {Uint8Array} delta
 * @returns {Uint8Array} with the length and the checksum that the delta announces
 */
export function applyDelta(base, delta) {
  let at = 0;
  const readNumber = () => {
    const start = at;
    let number = 0;
    for (let digit; (digit = DIGITS.indexOf(String.fromCharCode(delta[at]))) >= 0; at += 1)
      number = number * 64 + digit;
    if (at === start || number >= 2 ** 32) throw new InvalidDelta("a number of 32 bits is missing");
    return number;
  };
  /** @param {string} character */
  const take = (character) => {
    const isNext = delta[at] === character.charCodeAt(0);
    if (isNext) at += 1;
    return isNext;
  };

  const length = readNumber();
  if (length > BYTES_MAX || !take("\n")) throw new InvalidDelta("its length is wrong");
  const result = new Uint8Array(length);
  let filled = 0;
  /** @param {Uint8Array} source @param {number} start @param {number} count */
  const copy = (source, start, count) => {
    if (start + count > source.length || filled + count > length) throw new InvalidDelta("a segment is too long");
    result.set(source.subarray(start, start + count), filled);
    filled += count;
  };
  for (;;) {
    const count = readNumber();
    if (take("@")) {
      copy(base, readNumber(), count);
      if (!take(",")) throw new InvalidDelta("a segment has no end");
    } else if (take(":")) {
      copy(delta, at, count);
      at += count;
    } else if (take(";")) {
      if (filled !== length || at !== delta.length || checksum(result) !== count)
        throw new InvalidDelta("it is of another message");
      return result;
    } else {
      throw new InvalidDelta("a segment is of an unknown kind");
    }
  }
}

/** The sum of the bytes as big-endian words of 32 bits; the last one is padded with zeros. @param {Uint8Array} bytes */
function checksum(bytes) {
  let sum = 0;
  bytes.forEach((byte, index) => {
    sum = (sum + byte * 2 ** (24 - 8 * (index % 4))) % 2 ** 32;
  });
  return sum;
}
