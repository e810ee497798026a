// A connection over WebSocket, with JSON frames.

/** @import { Connection, ConnectionEvents, Frame, Remember, WebSocketConstructor, WebSocketLike } from "./types.js" */

const SUBPROTOCOL = "pushonce.v1.json";

/**
 * @param {string} url the address of the node, `http://…` or `https://…`
 * @param {WebSocketConstructor} WebSocket
 * @param {ConnectionEvents} events
 * @param {Remember} remember
 * @returns {Connection & { socket: WebSocketLike }}
 */
export function openWebSocket(url, WebSocket, events, remember) {
  const socket = new WebSocket(`${url.replace("http", "ws")}/ws`, SUBPROTOCOL);
  socket.onopen = () => {
    // No other transport is needed.
    remember();
    events.opened();
  };
  socket.onclose = ({ code, reason }) => events.closed(code, reason);
  // Every error is followed by a close.
  socket.onerror = () => {};
  socket.onmessage = ({ data }) => {
    /** @type {Frame} */
    let frame;
    try {
      frame = JSON.parse(data);
    } catch (error) {
      close(socket);
      events.closed(undefined, String(error));
      return;
    }
    events.frame(frame, data);
  };
  return {
    socket,
    send: (frame) => socket.send(JSON.stringify(frame)),
    close: () => close(socket),
  };
}

/** Closes a socket without waiting for the reply, which a dead network never brings. @param {WebSocketLike} socket */
function close(socket) {
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close(1000);
}
