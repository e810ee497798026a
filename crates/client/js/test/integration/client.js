// Clients of real nodes, closed at the end of the test.

import WebSocket from "ws";

import { connect as connectWith } from "../../src/index.js";
import { PATIENCE, waitUntil } from "./nodes.js";

/**
 * @param {import("node:test").TestContext} context
 * @param {string | string[]} url
 * @param {import("../../src/index.js").ConnectOptions} [options]
 */
export function connect(context, url, options = {}) {
  const client = connectWith(url, { WebSocket: globalThis.WebSocket ?? WebSocket, ...options });
  context.after(() => client.close());
  return client;
}

/** The data of all messages of a subscription, as they arrive, and its other events. */
export function record(subscription) {
  const record = { data: [], positions: [], events: [] };
  subscription.on("message", ({ data, position }) => {
    record.data.push(data);
    record.positions.push(position);
  });
  for (const name of ["gap", "stale", "live", "error"])
    subscription.on(name, (value) => record.events.push([name, value]));
  return record;
}

/** Waits for a number of messages. */
export const received = (recorded, count) =>
  waitUntil(`${count} messages are received`, () => recorded.data.length >= count);

/** Waits for an event of a client. */
export function once(client, name) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`timed out after ${PATIENCE} ms waiting for ${name}`)), PATIENCE);
    const remove = client.on(name, (value) => {
      clearTimeout(timer);
      remove();
      resolve(value);
    });
  });
}

export const range = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => first + index);
