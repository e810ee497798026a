// The transports over HTTP, for networks where no WebSocket passes. Loaded only when they are used.

import { openLongPolls } from "./long-poll.js";
import { openEventStreams } from "./sse.js";

/** @import { Connection, ConnectionEvents, Remember, TransportName } from "./types.js" */

const DAY = 86_400_000;

/**
 * The functions of the core are passed in, and not imported: bundlers that move shared modules to a file of their
 * own would make every page load two files.
 * @param {TransportName} transport
 * @param {string} url the address of the node
 * @param {ConnectionEvents} events
 * @param {typeof globalThis.fetch} fetch
 * @param {typeof import("./http-error.js").httpError} httpError
 * @param {typeof import("./payload.js").toBytes} toBytes
 * @param {Remember} remember a connection that the best transport opens forgets it
 * @returns {Connection}
 */
export function open(transport, url, events, fetch, httpError, toBytes, remember) {
  const openTransport = transport === "sse" ? openEventStreams : openLongPolls;
  return openTransport(
    { url, fetch, httpError, toBytes },
    {
      ...events,
      frame: (frame, text) => {
        // The next page begins with this transport.
        if (text) remember(transport, Date.now() + DAY);
        events.frame(frame, text);
      },
    },
  );
}
