// The page: loads the state of the tournament, continues it live, and shows what arrives.

import { Cluster, loadState, urlOf } from "./cluster.js";
import { Feed, LIVE, loadWall } from "./connection.js";
import { byId, grouped, setText } from "./dom.js";
import { Goals } from "./goals.js";
import { LatencyPanel } from "./latency.js";
import { Matches } from "./matches.js";
import { Nodes } from "./nodes.js";
import { Story } from "./story.js";
import { Wall } from "./wall.js";

/** @typedef {import("./matches.js").PublishedState} PublishedState */

const RETRY_MS = 500;
const AUDIENCE_EVERY = 2_000;
/** Counts beside the matches need not change with each message. */
const COUNTS_EVERY = 250;

const matches = new Matches();
const wall = new Wall(matches);
const goals = new Goals();
const latency = new LatencyPanel();
const story = new Story();
/** Messages that were published while this page was not connected. */
let late = 0;
/** The node of the last connection. */
let last = "";
/** Where and when it was lost. @type {{ name: string, at: number } | undefined} */
let lost;

/** Repeats a request until it has a result: a node that starts has none yet. @template T @param {() => Promise<T | undefined>} load @returns {Promise<T>} */
async function retried(load) {
  for (;;) {
    const result = await load().catch(() => undefined);
    if (result) return result;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

const [clusterState, tournament] = await Promise.all([retried(loadState), retried(loadWall)]);
matches.load(tournament.matches);
wall.build();

// `?transports=sse`: to try the transports for networks where no WebSocket passes.
const transports = new URLSearchParams(location.search).get("transports")?.split(",");
const events = { message: onMessage, audience: showAudience, notice, state: onConnection };
const feed = new Feed(clusterState.nodes.map(urlOf), events, transports);
feed.follow(tournament.live);
feed.followMatches(matches.live());

const nodes = new Nodes((node, action) => cluster.act(node, action));
const cluster = new Cluster(
  clusterState,
  () => feed.url,
  (state) => {
    showNodes(state);
    story.setCounters(state.counters);
  },
);
setInterval(requestAudience, AUDIENCE_EVERY);
setInterval(showReceived, COUNTS_EVERY);
document.documentElement.dataset.ready = "true";

/** @param {PublishedState} state @param {string} topic @param {"history" | "late" | "live"} kind */
function onMessage(state, topic, kind) {
  if (matches.isNextRun(state)) {
    matches.restart();
    wall.build();
  }
  const match = matches.apply(state, topic !== LIVE);
  if (match) wall.update(match);
  if (kind === "live" && state.published_ms) latency.record(state.published_ms);
  if (kind === "late") late += 1;
  performance.mark(kind === "live" ? "demo-live" : "demo-history");
  if (topic === LIVE) {
    if (state.event === "goal") announce(state, kind);
    feed.followMatches(matches.live());
    story.onMessage();
  }
}

/** @param {PublishedState} state @param {string} kind */
function announce(state, kind) {
  goals.add(state, kind !== "history");
  if (kind !== "history") wall.celebrate(state.match, state.goal?.team ?? 0);
}

function showReceived() {
  const { received, missed } = feed.received;
  setText(byId("received-count"), grouped(received));
  setText(byId("expected-count"), grouped(received + missed));
  setText(byId("missed-count"), grouped(missed));
  setText(byId("late-count"), grouped(late));
  byId("received").dataset.missed = String(missed > 0);
}

/** The name of the node at an address. @param {string} url */
const nameOf = (url) => cluster.state.nodes.find((node) => urlOf(node) === url)?.name ?? url;

function onConnection() {
  const { state, isStale, transport, url } = feed;
  const name = nameOf(url);
  const texts = {
    connecting: "connecting",
    live: isStale ? `${name} may be out of date` : `live from ${name}, ${transport}`,
    waiting: "disconnected, connecting again",
    closed: "ended",
  };
  byId("connection").dataset.state = isStale ? "stale" : state;
  setText(byId("connection-text"), texts[state]);
  if (state === "waiting" && last) lost ??= { name: last, at: performance.now() };
  if (state === "live" && lost) {
    const seconds = ((performance.now() - lost.at) / 1_000).toFixed(1);
    nodes.log(`This page went from ${lost.name} to ${name}: connected again after ${seconds} s.`);
    lost = undefined;
  }
  if (state === "live") last = name;
  showNodes(cluster.state);
}

/** @param {import("./cluster.js").ClusterState} state */
function showNodes(state) {
  nodes.show(state, feed.state === "live" ? feed.url : "");
}

/** @param {number} count */
function showAudience(count) {
  byId("audience").hidden = false;
  setText(byId("audience-text"), `${grouped(count)} watching`);
  story.setAudience(count);
}

/** Event streams do not report the audience. */
async function requestAudience() {
  if (feed.state !== "live" || feed.transport === "websocket") return;
  const response = await fetch(`${feed.url}/topics/${LIVE}?audience`).catch(() => undefined);
  if (response?.ok) showAudience((await response.json()).audience);
}

/** @param {string} text */
function notice(text) {
  nodes.log(text);
}
