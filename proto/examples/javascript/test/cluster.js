// What the tests share: nodes, and the history of a topic.

import { after } from "node:test";
import { Testbed, inTime } from "../../../../crates/client/js/test/integration/nodes.js";
import { Cluster } from "../cluster.js";
import { Subscriber } from "../subscriber.js";

export { PATIENCE, Testbed, inTime, waitUntil } from "../../../../crates/client/js/test/integration/nodes.js";

/** Returns what makes a testbed that ends with the suite: call it in the body of the suite. */
export function suiteTestbed() {
  const ends = [];
  after(() => Promise.all(ends.map((end) => end())));
  return () => Testbed.create({ after: (end) => ends.push(end) });
}

/** The address of a node as gRPC names it. */
export const server = (node) => node.grpc.replace("http://", "");

/** The first `count` messages of a topic. */
export async function history(cluster, topic, count) {
  return inTime(`${count} messages of ${topic}`, readFirst(cluster, topic, count));
}

async function readFirst(cluster, topic, count) {
  const messages = [];
  for await (const { message, gap } of new Subscriber(cluster, topic, { start: true }).events()) {
    if (gap) throw new Error(`${topic} has a gap: ${JSON.stringify(gap)}`);
    if (messages.push(message) === count) return messages;
  }
}

/** The newest position of a topic: with it a test sees that no message was stored twice. */
export async function newest(cluster, topic) {
  return inTime(`the newest position of ${topic}`, readNewest(cluster, topic));
}

async function readNewest(cluster, topic) {
  const [client] = cluster.clients();
  const call = client.Subscribe({ topic }, cluster.metadata());
  try {
    for await (const { subscribed } of call) return subscribed.position;
  } finally {
    call.cancel();
    client.close();
  }
}

/** The offset of a position. */
export const offset = (position) => Number(position.split(":")[1]);
export { Cluster };
