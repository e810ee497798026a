// Connections over WebTransport, with JSON frames. Loaded only where a page has WebTransport.

/** @import { Connection, Frame, TransportParts, WebSocketLike } from "./types.js" */

/** Time to open a session. Some networks drop UDP, and some browsers report no failure. */
const OPEN_TIMEOUT = 3_000;
/** A session that is lost earlier counts as one that could not be opened. */
const EARLY_LOSS = 3_000;
const DAY = 86_400_000;
/** Datagrams that the browser keeps until they are read. One that it drops counts as received at the node. */
const DATAGRAMS_MAX = 256;

/**
 * Opens a session beside a WebSocket. When it is open first, `connection` becomes it. When it is not, or is lost at
 * once, pages use the WebSocket for a day.
 * @param {Connection & { socket: WebSocketLike }} connection
 * @param {TransportParts} parts
 */
export function race(connection, parts) {
  const { events, store } = parts;
  const { socket } = connection;
  const { onopen, onclose } = socket;
  const closeSocket = connection.close;
  // Open, or closed by the client.
  if (socket.readyState === 1 || !onopen || !onclose) return;
  const useSocketForADay = () => store("websocket", Date.now() + DAY);
  /** How the WebSocket ended, while the session may still open. @type {any} */
  let socketEnd;
  /** When the session won. */
  let openedAt = 0;
  let isDecided = false;
  const decide = () => {
    isDecided = true;
    socket.onclose = onclose;
    connection.close = closeSocket;
  };
  const session = openSession({
    ...parts,
    events: {
      ...events,
      opened: () => {
        decide();
        openedAt = Date.now();
        closeSocket();
        connection.send = session.send;
        connection.close = session.close;
        store();
        events.opened("webtransport");
      },
      closed: (code, reason) => {
        if (openedAt) {
          if (Date.now() - openedAt < EARLY_LOSS) useSocketForADay();
          events.closed(code, reason);
        } else if (!isDecided) {
          decide();
          if (socketEnd) onclose(socketEnd);
        }
      },
    },
  });
  socket.onopen = (event) => {
    decide();
    session.close();
    onopen(event);
    useSocketForADay();
  };
  socket.onclose = (event) => (socketEnd = event);
  connection.close = () => {
    closeSocket();
    session.close();
  };
}

/** Opens a session. @param {TransportParts} parts @returns {Connection} */
export function openSession(parts) {
  const { events } = parts;
  /** @type {any} */
  let transport;
  /** @type {any} */
  let writer;
  let isClosed = false;
  const streams = createStreams((frame, text) => isClosed || events.frame(frame, text));

  /** @param {number} [code] @param {string} [reason] */
  function end(code, reason) {
    if (isClosed) return;
    close();
    events.closed(code, reason);
  }

  /** @param {unknown} error */
  const endIfMalformed = (error) => error instanceof SyntaxError && end(undefined, String(error));

  function close() {
    isClosed = true;
    clearTimeout(timer);
    try {
      transport?.close({ closeCode: 1000, reason: "" });
    } catch {
      // It failed already.
    }
  }

  async function start() {
    const { address, hashes } = await locate(parts);
    if (isClosed) return;
    transport = new /** @type {any} */ (globalThis).WebTransport(`${address}/webtransport?protocol=pushonce.v1.json`, {
      congestionControl: "low-latency",
      ...(hashes && {
        serverCertificateHashes: hashes.map((hash) => ({ algorithm: "sha-256", value: parts.toBytes(hash) })),
      }),
    });
    transport.closed.then(
      (/** @type {any} */ { closeCode, reason }) => end(closeCode || undefined, reason),
      (/** @type {unknown} */ error) => end(undefined, String(error)),
    );
    await transport.ready;
    const control = await transport.createBidirectionalStream();
    if (isClosed) return;
    clearTimeout(timer);
    writer = control.writable.getWriter();
    events.opened();
    await Promise.all([
      parts.options?.datagrams && readDatagrams(),
      readFrames(control.readable, streams.onControl),
      each(
        transport.incomingUnidirectionalStreams,
        (stream) => void readFrames(stream, streams.onStream()).catch(endIfMalformed),
      ),
    ]);
  }

  function readDatagrams() {
    const decoder = new TextDecoder();
    transport.datagrams.incomingHighWaterMark = DATAGRAMS_MAX;
    return each(transport.datagrams.readable, (bytes) => streams.onDatagram(decoder.decode(bytes)));
  }

  const timer = setTimeout(end, OPEN_TIMEOUT, undefined, "timeout: WebTransport");
  // The end of the session says more than the error of a stream, where there is one. A malformed frame ends the session.
  start().catch((error) => {
    const isReadable = transport && !(error instanceof SyntaxError);
    return (isReadable ? transport.closed : Promise.reject(error)).catch(() => end(undefined, String(error)));
  });
  return {
    send: (frame) => {
      streams.onSend(frame);
      const asked = parts.options?.datagrams ? askForDatagrams(frame) : frame;
      writer?.write(encode(JSON.stringify(asked))).catch(() => {});
    },
    close,
  };
}

/**
 * The address of the QUIC port and the hashes of its certificate. A node without TLS is one in development: it names
 * the certificate that it made.
 * @param {TransportParts} parts
 * @returns {Promise<{ address: string, hashes?: string[] }>}
 */
async function locate({ address: url, fetch, options = {} }) {
  const { url: address = url, certificateHashes: hashes } = options;
  if (hashes || !address.startsWith("http:")) return { address, hashes };
  const response = await fetch(`${url}/dev/certificate`);
  const { port, hashes: named } = await response.json();
  return { address: `https://${new URL(url).hostname}:${port}`, hashes: named };
}

/**
 * Asks for messages as datagrams where a newer message replaces an older one.
 * @param {Frame} frame
 * @returns {Frame}
 */
function askForDatagrams(frame) {
  const { delivery = "all", delta } = frame.subscribe ?? {};
  return delivery === "all" || delta ? frame : { ...frame, subscribe: { ...frame.subscribe, datagrams: true } };
}

// As in position.js, which would become a file of its own if this imported it: 110 bytes more for every page.
/** @param {string} position */
const parse = (position) => position.split(":").map(BigInt);

/** @param {Frame} frame a message */
const epochOf = ({ message }) => parse(message.position)[0];

/** @param {Frame} a a message @param {Frame} b another one */
function isAfter(a, b) {
  const [epochA, offsetA] = parse(a.message.position);
  const [epochB, offsetB] = parse(b.message.position);
  return epochA > epochB || (epochA === epochB && offsetA > offsetB);
}

/**
 * Brings the frames of the streams into the order of one connection: those of a subscription come after its
 * `subscribed`, and none comes after the client has ended it. A datagram waits until the stream of its topic has reached
 * its epoch, since the gap before that epoch comes there. Older messages are discarded by the session.
 * @param {(frame: Frame, text: string) => unknown} onFrame
 */
function createStreams(onFrame) {
  /**
   * @typedef {object} TopicStreams
   * @property {number} ready `subscribed` frames without a stream
   * @property {(() => void)[]} waiting streams without such a frame
   * @property {{ isOver?: boolean }[]} open streams that are read
   * @property {boolean} [isWanted] whether the client has a subscription
   * @property {bigint} [epoch] the last one of the stream
   * @property {{ frame: Frame, text: string }} [held] the newest datagram of a later epoch
   */
  const topics = new Map();
  /** @param {string} topic @returns {TopicStreams} */
  const of = (topic) => topics.get(topic) ?? topics.set(topic, { ready: 0, waiting: [], open: [] }).get(topic);

  return {
    /** @param {Frame} frame */
    onSend({ subscribe, unsubscribe }) {
      if (subscribe) of(subscribe.topic).isWanted = true;
      if (!unsubscribe) return;
      const topic = of(unsubscribe.topic);
      for (const stream of topic.open.splice(0)) stream.isOver = true;
      Object.assign(topic, { isWanted: false, epoch: undefined, held: undefined });
    },

    /** @param {string} text */
    onDatagram(text) {
      const frame = JSON.parse(text);
      const topic = topics.get(frame.message?.topic);
      if (!topic?.isWanted) return;
      if (epochOf(frame) === topic.epoch) onFrame(frame, text);
      else if (!topic.held || isAfter(frame, topic.held.frame)) topic.held = { frame, text };
    },

    /** @param {string} text */
    onControl(text) {
      const frame = JSON.parse(text);
      onFrame(frame, text);
      if (!frame.subscribed) return;
      const topic = of(frame.subscribed.topic);
      const resume = topic.waiting.shift();
      if (resume) resume();
      else topic.ready += 1;
    },

    /** What reads the frames of one stream. */
    onStream() {
      /** @type {{ isOver?: boolean } | undefined} */
      let stream;
      /** @type {TopicStreams} */
      let topic;
      /** Passes a frame on, and the datagram that waited for it. @param {Frame} frame @param {string} text */
      const pass = (frame, text) => {
        onFrame(frame, text);
        const reached = frame.message?.position ?? frame.gap?.to;
        if (!reached) return;
        [topic.epoch] = parse(reached);
        const { held } = topic;
        if (!held || epochOf(held.frame) > topic.epoch) return;
        topic.held = undefined;
        onFrame(held.frame, held.text);
      };
      /** @param {string} text @returns {unknown} */
      return (text) => {
        const frame = JSON.parse(text);
        if (stream) return stream.isOver || pass(frame, text);
        topic = of(frame.stream.topic);
        topic.open.push((stream = {}));
        if (topic.ready) return void (topic.ready -= 1);
        return new Promise((resolve) => topic.waiting.push(() => resolve(undefined)));
      };
    },
  };
}

/** @param {string} text a frame behind its length, seven bits a byte */
function encode(text) {
  const content = new TextEncoder().encode(text);
  const length = [];
  let rest = content.length;
  for (; rest > 127; rest >>= 7) length.push((rest & 127) | 128);
  length.push(rest);
  const bytes = new Uint8Array(length.length + content.length);
  bytes.set(length);
  bytes.set(content, length.length);
  return bytes;
}

/** @param {ReadableStream<any>} readable @param {(value: any) => unknown} onValue */
async function each(readable, onValue) {
  const reader = readable.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    await onValue(value);
  }
}

/**
 * Reads frames to the end of a stream. The last one may be cut off there.
 * @param {ReadableStream<Uint8Array>} readable
 * @param {(text: string) => unknown} onText
 */
async function readFrames(readable, onText) {
  const decoder = new TextDecoder();
  let bytes = new Uint8Array();
  await each(readable, async (/** @type {Uint8Array} */ chunk) => {
    const joined = new Uint8Array(bytes.length + chunk.length);
    joined.set(bytes);
    joined.set(chunk, bytes.length);
    bytes = joined;
    for (;;) {
      const end = bytes.findIndex((byte) => byte < 128) + 1;
      if (!end) return;
      const length = bytes.subarray(0, end).reduceRight((sum, byte) => sum * 128 + (byte & 127), 0);
      if (bytes.length < end + length) return;
      const text = decoder.decode(bytes.subarray(end, end + length));
      bytes = bytes.subarray(end + length);
      await onText(text);
    }
  });
}
