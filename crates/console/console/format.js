// Numbers and times, as short as an operator needs them.

const WHOLE = new Intl.NumberFormat("en-US");

/** A number with separators. @param {number} value */
export const whole = (value) => WHOLE.format(value);

/** A number in at most five characters: `12.3 k`. @param {number} value */
export function short(value) {
  return scale(value, 1000, ["", " k", " M", " G", " T"]);
}

/** A size in bytes. @param {number} value */
export function bytes(value) {
  return scale(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
}

/** A rate a second. @param {number} value */
export const perSecond = (value) => `${short(value)}/s`;

/** A time in microseconds. @param {number | null | undefined} micros */
export function latency(micros) {
  if (micros === null || micros === undefined) return "–";
  if (micros >= 60_000_000) return "> 10 s";
  if (micros < 1_000) return `${digits(micros)} µs`;
  return micros < 1_000_000 ? `${digits(micros / 1_000)} ms` : `${digits(micros / 1_000_000)} s`;
}

/** A duration in milliseconds. @param {number} millis */
export function duration(millis) {
  if (millis < 1_000) return `${Math.round(millis)} ms`;
  const seconds = millis / 1_000;
  if (seconds < 120) return `${digits(seconds)} s`;
  const minutes = seconds / 60;
  if (minutes < 120) return `${Math.round(minutes)} min`;
  const hours = minutes / 60;
  return hours < 48 ? `${Math.round(hours)} h` : `${Math.round(hours / 24)} days`;
}

/** The time of day with milliseconds. @param {number} millis since 1970 */
export function clock(millis) {
  const time = new Date(millis);
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const thousandths = String(time.getMilliseconds()).padStart(3, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${thousandths}`;
}

/** `1 topic`, `2 topics`. @param {number} count @param {string} noun */
export const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

/** @param {number} value @param {number} step @param {string[]} units */
function scale(value, step, units) {
  let unit = 0;
  while (value >= step && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  return `${unit ? digits(value) : whole(Math.round(value))}${units[unit]}`;
}

/** Three digits. @param {number} value */
const digits = (value) =>
  (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)).replace(/\.0+$/, "");
