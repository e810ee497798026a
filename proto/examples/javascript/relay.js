// Publishes the messages of an outbox in order, and deletes each after its acknowledgement.
//
//   node relay.js shop.db 127.0.0.1:7090 127.0.0.1:7190
//
// Run one for each database, under a supervisor that starts it again. It may be killed at any time; start it again within
// five minutes, since a cluster recognises a repeated key for at least that long. A second relay of the same database does
// no harm.

import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Cluster } from "./cluster.js";
import * as outbox from "./outbox.js";
import { Publisher } from "./publisher.js";

/** Until an empty outbox is read again: the delay that the outbox adds to a message is at most about this. */
const POLL_MS = 50;

/** After a publish without success. The publisher has already tried for its deadline. */
const PAUSE_MS = 1_000;

/** The message itself is wrong. Other rejections end when an operator changes a token or a limit: the message waits. */
const DEFECTIVE = ["bad_topic", "bad_request", "too_large", "not_supported", "key_reused"];

/** Runs until the signal aborts. @param {Publisher} publisher @param {AbortSignal} signal */
export async function relay(database, publisher, signal) {
  while (!signal.aborted) {
    const message = outbox.oldest(database);
    if (!message) await pause(POLL_MS, signal);
    else if (!(await publishSaved(database, publisher, message))) await pause(PAUSE_MS, signal);
  }
}

/** Publishes the oldest message. Returns whether the next one may follow: the order of the messages is kept. */
async function publishSaved(database, publisher, message) {
  const { key, topic, payload } = message;
  const outcome = await publisher.publish(topic, payload, { key, contentType: "application/json" });
  if (outcome.kind === "acknowledged") {
    outbox.remove(database, message);
    return true;
  }
  if (outcome.kind === "rejected" && DEFECTIVE.includes(outcome.reason)) {
    console.error(`message ${message.id} is set aside:`, outcome);
    outbox.setAside(database, message, JSON.stringify(outcome));
    return true;
  }
  console.error(`message ${message.id} is published again:`, outcome);
  return false;
}

/** Ends early when the signal aborts. */
const pause = (ms, signal) => sleep(ms, undefined, { signal }).catch(() => {});

async function main(path, ...servers) {
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"]) process.once(name, () => stop.abort());
  const publisher = new Publisher(new Cluster(servers));
  await relay(outbox.connect(path), publisher, stop.signal);
  publisher.close();
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main(...process.argv.slice(2));
