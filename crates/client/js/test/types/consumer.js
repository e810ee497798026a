// Checked against the types as published: what an application writes, and what it must not.

import { connect, PublishError, PushonceError } from "pushonce";

/** @import { Message, Position } from "./aliases.js" */

const client = connect(["https://a.example.com", new URL("https://b.example.com")], {
  token: async ({ reason }) => (reason === "rejected" ? "t2" : "t1"),
  whenHidden: { rate: 1 },
  transports: ["websocket", "sse"],
});
const subscription = client.subscribe("chat/7", { from: { last: 10 }, delivery: { rate: 2 }, audience: true });
subscription.on("message", (/** @type {Message} */ message) => message.data);
subscription.on("gap", ({ from, to, reason }) => [from, to, reason].join());
subscription.on("error", (error) => error.code);
client.on("disconnected", ({ reason, retryIn }) => `${reason} ${(retryIn ?? 0) + 1}`);
client.on("closed", (error) => error?.code);

export async function use() {
  const { position, recovered } = await subscription.subscribed;
  for await (const { time, key } of subscription) return [time + 1, key?.length, recovered, position.length];
  const { data, position: at } = await client.snapshot("chat/7");
  client.subscribe("chat/7", { from: { position: at } });
  try {
    /** @type {Position} */
    const stored = (await client.publish("chat/7", data, { key: "k", timeout: 1_000 })).position;
    return stored;
  } catch (error) {
    if (error instanceof PublishError) return error.outcome === "unknown" ? error.key : error.code;
    throw new PushonceError("x", "y");
  }
}

// @ts-expect-error: an address is needed.
connect();
// @ts-expect-error: no such event.
client.on("message", () => {});
// @ts-expect-error: no such start.
client.subscribe("chat/7", { from: "yesterday" });
// @ts-expect-error: internal.
subscription.deliver;
