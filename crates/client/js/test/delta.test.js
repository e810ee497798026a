import assert from "node:assert/strict";
import { test } from "node:test";

import { applyDelta, createDeltaDecoder, InvalidDelta } from "../src/delta.js";
import { decode, toBytes } from "../src/payload.js";

const bytes = (text) => new TextEncoder().encode(text);
const text = (array) => new TextDecoder().decode(array);
const base64 = (string) => btoa(string);

test("delta in Fossil's format is applied", () => {
  // The example of proto/README.md.
  assert.equal(
    text(applyDelta(bytes("abcdefgh"), bytes("6\n4@2,2:!?1aLxG;".replace("1aLxG", sum("cdef!?"))))),
    "cdef!?",
  );
  assert.equal(applyDelta(bytes(""), bytes("0\n0;")).length, 0);
});

test("each malformed delta is refused", () => {
  for (const delta of [
    "",
    "4",
    "4:",
    "4\n",
    "4\n4",
    "4\n4!",
    "4\n4:abc",
    "4\n4@0",
    "4\n4@0;",
    "4\n4@1,",
    "4\n~~~~~@~~~~~,",
    "4\n1@zzzzzz,",
    "3\n4@0,",
    "4\n3@0,0;",
    "4\n4@0,0;",
    "0\n0;0",
    "3~~~~~\n",
  ]) {
    assert.throws(() => applyDelta(bytes("base"), bytes(delta)), InvalidDelta, delta);
  }
});

test("decoder turns deltas of JSON, text and bytes into whole messages", () => {
  const cases = [
    [{ data: { a: 1 } }, '{"a":1}', '{"a":2}', { a: 2 }],
    [{ data: "goal" }, "goal", "goal!", "goal!"],
    [{ data: base64("goal"), encoding: "base64" }, "goal", "goal!", bytes("goal!")],
  ];
  for (const [members, , after, expected] of cases) {
    const decoder = createDeltaDecoder(toBytes);
    const whole = { topic: "t", position: "5:1", ...members };
    decoder.decode(whole, JSON.stringify({ message: whole }));
    const delta = base64(`${digits(after.length)}\n${digits(after.length)}:${after}${sum(after)};`);
    const message = decode(decoder.decode({ topic: "t", position: "5:2", delta }, ""));
    assert.deepEqual([message.position, message.data], ["5:2", expected]);
  }
});

test("delta without its base is refused", () => {
  const decoder = createDeltaDecoder(toBytes);
  decoder.decode({ position: "5:1", data: "x" }, "");
  decoder.reset();
  assert.throws(() => decoder.decode({ position: "5:2", delta: base64("0\n0;") }, ""), InvalidDelta);
});

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

function digits(number) {
  return number < 64 ? DIGITS[number] : digits(Math.floor(number / 64)) + DIGITS[number % 64];
}

/** The checksum of a text of single-byte characters. */
function sum(string) {
  let total = 0;
  for (let at = 0; at < string.length; at += 4) {
    const word = [0, 1, 2, 3].map((index) => string.charCodeAt(at + index) || 0);
    total = (total + word.reduce((value, byte) => value * 256 + byte, 0)) % 2 ** 32;
  }
  return digits(total);
}
