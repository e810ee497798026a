// The transports beside WebSocket: those over HTTP, for networks where no WebSocket passes. Loaded only when they are used.

import { openLongPolls } from "./long-poll.js";
import { openEventStreams } from "./sse.js";

/** @import { Connection, TransportName, TransportParts } from "./types.js" */

const DAY = 86_400_000;

/**
 * The functions of the core are passed in, and not imported: bundlers that move shared modules to a file of their
 * own would make every page load two files.
 * @param {TransportName} transport
 * @param {TransportParts} parts
 * @returns {Connection | Promise<Connection>}
 */
export function open(transport, parts) {
  const { address: url, events, store, fetch, httpError, toBytes } = parts;
  // Asked for alone, without a WebSocket beside it.
  if (transport === "webtransport") return import("./webtransport.js").then(({ openSession }) => openSession(parts));
  const openTransport = transport === "sse" ? openEventStreams : openLongPolls;
  return openTransport(
    { url, fetch, httpError, toBytes },
    {
      ...events,
      frame: (frame, text) => {
        // The next page begins with this transport.
        if (text) store(transport, Date.now() + DAY);
        events.frame(frame, text);
      },
    },
  );
}
