// Subscribes to one topic and continues after every failure where it stopped, at another node.
//
//   node subscriber.js chat/7 127.0.0.1:7090 127.0.0.1:7190

import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { status } from "@grpc/grpc-js";
import { Cluster } from "./cluster.js";
import { errorDetails } from "./outcome.js";
import { Backoff } from "./retry.js";

/** A new call would end in the same way. */
const FINAL = [status.INVALID_ARGUMENT, status.OUT_OF_RANGE, status.PERMISSION_DENIED];

/** A subscription of one topic over any number of calls, one at a time. */
export class Subscriber {
  #cluster;
  #topic;
  /** Where the next call begins. Store `startFrom.position` with the effect of a message, in one transaction, to continue
   * there after a restart of this program. */
  startFrom;

  /** @param {Cluster} cluster @param {string} topic */
  constructor(cluster, topic, startFrom = { now: true }) {
    this.#cluster = cluster;
    this.#topic = topic;
    this.startFrom = startFrom;
  }

  /**
   * The messages in order, each once, as `{ message }`, and `{ gap }` for messages that will not come: load the state that
   * they changed from its source again. Throws when no new call can succeed, as for a malformed topic.
   */
  async *events() {
    const clients = this.#cluster.clients();
    const backoff = new Backoff(100, 5_000);
    try {
      for (let server = 0; ; server = (server + 1) % clients.length) {
        let delay = 0;
        try {
          for await (const event of this.#call(clients[server])) {
            backoff.reset();
            yield event;
          }
        } catch (error) {
          delay = delayBeforeNextCall(error);
        }
        await sleep(Math.max(delay, backoff.next()));
      }
    } finally {
      for (const client of clients) client.close();
    }
  }

  async *#call(client) {
    const request = { topic: this.#topic, start_from: this.startFrom };
    const call = client.Subscribe(request, this.#cluster.metadata());
    try {
      for await (const { event, [event]: value } of call) {
        if (event === "message" || event === "gap") {
          this.startFrom = { position: event === "gap" ? value.last : value.position };
          yield { [event]: value };
        } else if (event === "heartbeat" ? value.position : event === "subscribed" && this.startFrom.now) {
          // The position of a heartbeat is empty while the topic is stale, and before the first message of a history that
          // was requested.
          this.startFrom = { position: value.position };
        }
      }
    } finally {
      call.cancel();
    }
  }
}

/** The milliseconds that the node asks for. Throws the error when a new call would end in the same way. */
function delayBeforeNextCall(error) {
  // Not the status of a call: an error of the caller.
  if (error.code === undefined || error.metadata === undefined) throw error;
  const { info, delayMs } = errorDetails(error);
  if (FINAL.includes(error.code) && info) throw error;
  // A token that has expired is replaced: the next call asks for a new one. Another invalid token stays invalid.
  if (error.code === status.UNAUTHENTICATED && info?.reason !== "token_expired") throw error;
  return delayMs;
}

async function main(topic, ...servers) {
  for await (const { message, gap } of new Subscriber(new Cluster(servers), topic).events()) {
    if (message) console.log(message.position, message.payload.toString());
    else console.log(`gap from ${gap.first} to ${gap.last}: ${gap.reason}`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main(...process.argv.slice(2));
