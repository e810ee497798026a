import assert from "node:assert/strict";
import { test } from "node:test";

import { decode, encode } from "../src/payload.js";
import { follows, isAfter } from "../src/position.js";
import { topicPath } from "../src/http-connection.js";
import { baseUrl } from "../src/urls.js";

test("payloads come back as they were published", () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
  const cases = [
    ["text", "text/plain"],
    [{ a: [1, null] }, "application/json"],
    [7, "application/json"],
    [null, "application/json"],
    [bytes, "application/octet-stream"],
    [new Uint8Array(), "application/octet-stream"],
  ];
  for (const [data, contentType] of cases) {
    const message = decode({ topic: "t", position: "5:1", time: 1, ...encode(data) });
    assert.deepEqual([message.data, message.contentType], [data, contentType]);
  }
  assert.deepEqual(encode("x", "application/json"), { content_type: "application/json", data: "x" });
  assert.deepEqual(decode({ encoding: "base64", content_type: "image/png", data: "AQ==" }).data, Uint8Array.of(1));
  assert.deepEqual(encode(bytes.buffer), encode(bytes));
});

test("value that JSON does not have is refused before it is sent", () => {
  for (const data of [undefined, () => 1, Symbol("s"), 1n]) assert.throws(() => encode(data), TypeError);
});

test("positions are compared as integers of 64 bits", () => {
  assert.ok(isAfter("5:10", "5:9") && isAfter("10:1", "9:99") && !isAfter("5:9", "5:9"));
  assert.ok(isAfter("5:18446744073709551615", "5:18446744073709551614"));
  assert.ok(
    follows("5:9007199254740994", "5:9007199254740993") && !follows("5:9007199254740993", "5:9007199254740993"),
  );
  assert.ok(follows("5:1", "0:0") && !follows("5:2", "0:0") && !follows("6:1", "5:0"));
});

test("address of a node is accepted in each of its forms", () => {
  const cases = {
    "https://push.example.com": "https://push.example.com",
    "wss://push.example.com/ws": "https://push.example.com",
    "ws://127.0.0.1:7080": "http://127.0.0.1:7080",
    "http://[::1]:7080/": "http://[::1]:7080",
    "https://example.com/push/": "https://example.com/push",
  };
  for (const [address, base] of Object.entries(cases)) assert.equal(baseUrl(address), base);
  assert.throws(() => baseUrl("quic://example.com:7443"), TypeError);
  assert.throws(() => baseUrl("example.com"), TypeError);
  assert.equal(topicPath("chat/7 ü?/ä"), "/topics/chat/7%20%C3%BC%3F/%C3%A4");
});
