// Positions, `epoch:offset`. Both are integers of 64 bits, which a number does not hold.

/** @param {string} position */
const parse = (position) => position.split(":").map(BigInt);

/**
 * Whether `a` is after `b`.
 * @param {string} a
 * @param {string} b
 */
export function isAfter(a, b) {
  const [epochA, offsetA] = parse(a);
  const [epochB, offsetB] = parse(b);
  return epochA > epochB || (epochA === epochB && offsetA > offsetB);
}

/**
 * Whether a message at `a` may come directly after `b` without a gap: it is the next of the same epoch, or the
 * first of any epoch after `0:0`.
 * @param {string} a
 * @param {string} b
 */
export function follows(a, b) {
  const [epochA, offsetA] = parse(a);
  const [epochB, offsetB] = parse(b);
  return offsetA === offsetB + 1n && (epochA === epochB || b === "0:0");
}
