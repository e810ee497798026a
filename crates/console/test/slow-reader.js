// A client over WebSocket that subscribes and then does not read.

import { randomBytes } from "node:crypto";
import { connect } from "node:net";

/** @param {import("node:test").TestContext} context @param {string} address @param {string} topic */
export async function openSlowReader(context, address, topic) {
  const [host, port] = address.split(":");
  const socket = connect(Number(port), host);
  socket.on("error", () => {});
  context.after(() => socket.destroy());
  const lines = [
    "GET /ws HTTP/1.1",
    `Host: ${address}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
    "Sec-WebSocket-Protocol: pushonce.v1.json",
  ];
  socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  socket.write(frame(JSON.stringify({ id: 1, subscribe: { topic } })));
  let received = "";
  await new Promise((resolve, reject) => {
    socket.on("close", () => reject(new Error(`closed: ${received}`)));
    socket.on("data", function onData(data) {
      received += data.toString("latin1");
      if (!received.includes('"subscribed"')) return;
      socket.pause();
      resolve(undefined);
    });
  });
}

/** A masked text frame. @param {string} text */
function frame(text) {
  const payload = Buffer.from(text);
  if (payload.length > 125) throw new Error("too long for a short frame");
  const mask = randomBytes(4);
  const masked = payload.map((byte, index) => byte ^ mask[index % 4]);
  return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length]), mask, masked]);
}
