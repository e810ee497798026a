// Connections over WebTransport, with streams that the test writes, and the race with a WebSocket.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { toBytes } from "../src/payload.js";
import { openSession, race } from "../src/webtransport.js";

/** A session whose streams the test writes. */
class FakeTransport {
  static last;

  constructor(url, options) {
    FakeTransport.last = this;
    Object.assign(this, { url, options });
    this.ready = new Promise((resolve, reject) => Object.assign(this, { open: resolve, refuse: reject }));
    this.closed = new Promise((resolve, reject) => Object.assign(this, { end: resolve, fail: reject }));
    this.ready.catch(() => {});
    this.control = new TransformStream();
    this.sent = [];
    this.streams = new TransformStream();
    this.incomingUnidirectionalStreams = this.streams.readable;
    this.streamWriter = this.streams.writable.getWriter();
    this.controlWriter = this.control.writable.getWriter();
    const datagrams = new TransformStream(undefined, undefined, { highWaterMark: 100 });
    this.datagrams = { readable: datagrams.readable };
    this.datagramWriter = datagrams.writable.getWriter();
  }

  /** Sends a frame as a datagram: without a length. */
  datagram(frame) {
    void this.datagramWriter.write(new TextEncoder().encode(JSON.stringify(frame)));
  }

  async createBidirectionalStream() {
    const writable = new WritableStream({ write: (bytes) => void this.sent.push(decode(bytes)) });
    return { readable: this.control.readable, writable };
  }

  close() {
    this.isClosed = true;
  }

  /** Opens a stream of the server. Returns what writes frames to it. */
  stream() {
    const stream = new TransformStream(undefined, undefined, { highWaterMark: 100 });
    void this.streamWriter.write(stream.readable);
    const writer = stream.writable.getWriter();
    return (...frames) => frames.forEach((frame) => void writer.write(encode(frame)));
  }

  /** Writes frames to the control stream, in one piece or byte by byte. */
  write(frame, size = Infinity) {
    const bytes = encode(frame);
    for (let at = 0; at < bytes.length; at += size) void this.controlWriter.write(bytes.slice(at, at + size));
  }
}

class FakeSocket {
  readyState = 0;
  closes = [];
  constructor(events) {
    this.onopen = () => events.opened();
    this.onclose = ({ code, reason }) => events.closed(code, reason);
  }
  open() {
    this.readyState = 1;
    this.onopen();
  }
}

const encode = (frame) => {
  const content = new TextEncoder().encode(JSON.stringify(frame));
  const length = content.length < 128 ? [content.length] : [(content.length & 127) | 128, content.length >> 7];
  return new Uint8Array([...length, ...content]);
};
const decode = (bytes) => JSON.parse(new TextDecoder().decode(bytes.slice(bytes[0] < 128 ? 1 : 2)));
/** Lets everything happen that is ready. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 5));

/** Records what a connection reports. */
function record(options) {
  const log = { events: [], frames: [], stored: [] };
  const parts = {
    address: "https://node",
    events: {
      opened: (name) => log.events.push(["opened", name]),
      frame: (frame) => log.frames.push(frame),
      closed: (code, reason) => log.events.push(["closed", code, reason]),
    },
    fetch: async (url) => {
      log.fetched = url;
      return { json: async () => ({ port: 7443, hashes: ["AQI="] }) };
    },
    toBytes,
    store: (name) => log.stored.push(name),
    options,
  };
  return [log, parts];
}

globalThis.WebTransport = FakeTransport;
afterEach(() => (FakeTransport.last = undefined));

test("frames of any size are read from any pieces, and written behind their length", async () => {
  const [log, parts] = record();
  const connection = openSession(parts);
  await settle();
  const transport = FakeTransport.last;
  assert.equal(transport.url, "https://node/webtransport?protocol=pushonce.v1.json");
  assert.deepEqual(log.events, []);
  transport.open();
  await settle();
  assert.deepEqual(log.events, [["opened", undefined]]);
  const frames = [{ a: 1 }, { text: "ä".repeat(300) }, { b: 2 }];
  for (const frame of frames) transport.write(frame, 3);
  await settle();
  assert.deepEqual(log.frames, frames);
  connection.send(frames[1]);
  await settle();
  assert.deepEqual(transport.sent, [frames[1]]);
  transport.end({ closeCode: 4401, reason: "expired" });
  await settle();
  assert.deepEqual(log.events.at(-1), ["closed", 4401, "expired"]);
});

test("datagrams are requested where a newer message replaces an older one, and only on request", async () => {
  const requests = [
    [{ topic: "a", delivery: "latest" }, true],
    [{ topic: "b", delivery: { rate: 2 } }, true],
    [{ topic: "c", delivery: "all" }, undefined],
    [{ topic: "d" }, undefined],
    [{ topic: "e", delivery: "latest", delta: "fossil" }, undefined],
  ];
  for (const datagrams of [true, undefined]) {
    const [, parts] = record({ url: "https://node:7443", datagrams });
    const connection = openSession(parts);
    await settle();
    const transport = FakeTransport.last;
    transport.open();
    await settle();
    for (const [subscribe] of requests) connection.send({ id: 1, subscribe });
    connection.send({ id: 2, publish: { topic: "a", delivery: "latest" } });
    await settle();
    const asked = transport.sent.slice(0, requests.length).map(({ subscribe }) => subscribe.datagrams);
    assert.deepEqual(
      asked,
      requests.map(([, asks]) => datagrams && asks),
    );
    assert.deepEqual(transport.sent.at(-1), { id: 2, publish: { topic: "a", delivery: "latest" } });
  }
});

test("datagrams wait for their epoch on the stream, and end with the subscription", async () => {
  const [log, parts] = record({ url: "https://node:7443", datagrams: true });
  const connection = openSession(parts);
  await settle();
  const transport = FakeTransport.last;
  transport.open();
  await settle();
  const message = (position) => ({ message: { topic: "t", position } });
  const positions = () => log.frames.map(({ message, gap }) => message?.position ?? gap?.to).filter(Boolean);
  transport.datagram(message("1:1"));
  connection.send({ id: 1, subscribe: { topic: "t", delivery: "latest" } });
  await settle();
  transport.datagram(message("1:4"));
  transport.datagram(message("1:3"));
  await settle();
  assert.deepEqual(positions(), []);
  const stream = transport.stream();
  stream({ stream: { topic: "t" } }, message("1:2"));
  transport.write({ id: 1, subscribed: { topic: "t" } });
  await settle();
  assert.deepEqual(positions(), ["1:2", "1:4"]);
  transport.datagram(message("1:5"));
  transport.datagram(message("2:1"));
  transport.datagram(message("2:2"));
  await settle();
  assert.deepEqual(positions().slice(2), ["1:5"]);
  stream({ gap: { topic: "t", to: "2:0" } });
  await settle();
  assert.deepEqual(positions().slice(3), ["2:0", "2:2"]);
  connection.send({ id: 2, unsubscribe: { topic: "t" } });
  transport.datagram(message("2:3"));
  await settle();
  assert.deepEqual(positions().slice(5), []);
  connection.send({ id: 3, subscribe: { topic: "t", delivery: "latest" } });
  transport.datagram(message("2:3"));
  transport.write({ id: 3, subscribed: { topic: "t" } });
  transport.stream()({ stream: { topic: "t" } }, message("2:4"));
  await settle();
  // The session discards a message that is older than its newest one.
  assert.deepEqual(positions().slice(5), ["2:4", "2:3"]);
  // A message that cannot be read would be missing without a trace: the connection ends, and the next one resumes.
  void transport.datagramWriter.write(new TextEncoder().encode("{"));
  await settle();
  assert.equal(log.events.at(-1)[0], "closed");
  assert.ok(transport.isClosed);
});

test("a malformed frame ends the session, on whichever stream it comes", async () => {
  for (const isControl of [true, false]) {
    const [log, parts] = record();
    openSession(parts);
    await settle();
    const transport = FakeTransport.last;
    transport.open();
    await settle();
    const stream = new TransformStream(undefined, undefined, { highWaterMark: 100 });
    void transport.streamWriter.write(stream.readable);
    const writer = isControl ? transport.controlWriter : stream.writable.getWriter();
    void writer.write(new Uint8Array([1, 0x7b]));
    await settle();
    assert.equal(log.events.at(-1)[0], "closed");
    assert.ok(transport.isClosed);
  }
});

test("messages of a stream wait for the reply, and end with the subscription", async () => {
  const [log, parts] = record();
  const connection = openSession(parts);
  await settle();
  const transport = FakeTransport.last;
  transport.open();
  await settle();
  const first = transport.stream();
  first({ stream: { topic: "t" } }, { message: { topic: "t", n: 1 } });
  await settle();
  assert.deepEqual(log.frames, []);
  transport.write({ id: 1, subscribed: { topic: "t" } });
  await settle();
  assert.deepEqual(log.frames, [{ id: 1, subscribed: { topic: "t" } }, { message: { topic: "t", n: 1 } }]);
  connection.send({ id: 2, unsubscribe: { topic: "t" } });
  first({ message: { topic: "t", n: 2 } });
  transport.write({ id: 3, subscribed: { topic: "t" } });
  transport.stream()({ stream: { topic: "t" } }, { message: { topic: "t", n: 3 } });
  await settle();
  assert.deepEqual(log.frames.slice(2), [{ id: 3, subscribed: { topic: "t" } }, { message: { topic: "t", n: 3 } }]);
});

test("a node over HTTP names its port and its certificate", async () => {
  const [log, parts] = record();
  openSession({ ...parts, address: "http://127.0.0.1:7080" });
  await settle();
  assert.equal(log.fetched, "http://127.0.0.1:7080/dev/certificate");
  const { url, options } = FakeTransport.last;
  assert.equal(new URL(url).origin, "https://127.0.0.1:7443");
  assert.deepEqual(options.serverCertificateHashes, [{ algorithm: "sha-256", value: new Uint8Array([1, 2]) }]);
});

test("hashes and the address of the application are used as they are", async () => {
  const [log, parts] = record({ url: "https://other:1", certificateHashes: ["AQI="] });
  openSession(parts);
  await settle();
  assert.equal(log.fetched, undefined);
  assert.equal(new URL(FakeTransport.last.url).origin, "https://other:1");
});

/** A race between a WebSocket and a session. */
async function startRace() {
  const [log, parts] = record();
  const socket = new FakeSocket(parts.events);
  const connection = { socket, send: () => (log.isSentOverSocket = true), close: () => (socket.onclose = null) };
  race(connection, parts);
  await settle();
  return { log, socket, connection, transport: FakeTransport.last };
}

test("the session is used when it is open first", async () => {
  const { log, socket, connection, transport } = await startRace();
  transport.open();
  await settle();
  assert.deepEqual(log.events, [["opened", "webtransport"]]);
  assert.equal(socket.onclose, null);
  connection.send({ a: 1 });
  await settle();
  assert.deepEqual([transport.sent, log.isSentOverSocket], [[{ a: 1 }], undefined]);
  connection.close();
  assert.ok(transport.isClosed);
});

test("the WebSocket is used when it is open first, and remembered", async () => {
  const { log, socket, connection, transport } = await startRace();
  socket.open();
  assert.ok(transport.isClosed);
  transport.open();
  await settle();
  assert.deepEqual(log.events, [["opened", undefined]]);
  assert.deepEqual(log.stored, ["websocket"]);
  connection.send({ a: 1 });
  assert.ok(log.isSentOverSocket);
  socket.onclose({ code: 1001, reason: "" });
  assert.deepEqual(log.events.at(-1), ["closed", 1001, ""]);
});

test("a session that fails leaves the WebSocket alone, and the other way round", async () => {
  const failed = await startRace();
  failed.transport.refuse(new Error("blocked"));
  failed.transport.fail(new Error("blocked"));
  await settle();
  failed.socket.open();
  assert.deepEqual([failed.log.events, failed.log.stored], [[["opened", undefined]], ["websocket"]]);

  const without = await startRace();
  without.socket.onclose({ code: 1006, reason: "blocked" });
  assert.deepEqual(without.log.events, []);
  without.transport.open();
  await settle();
  assert.deepEqual(without.log.events, [["opened", "webtransport"]]);

  const neither = await startRace();
  neither.socket.onclose({ code: 1006, reason: "blocked" });
  neither.transport.fail(new Error("blocked"));
  await settle();
  assert.deepEqual(neither.log.events, [["closed", 1006, "blocked"]]);
});

test("a session that is lost at once makes the next page begin with the WebSocket", async () => {
  const { log, transport } = await startRace();
  transport.open();
  await settle();
  transport.fail(new Error("lost"));
  await settle();
  assert.deepEqual(log.stored, [undefined, "websocket"]);
  assert.equal(log.events.at(-1)[0], "closed");
});
