// The page: renders the received messages once for each animation frame, and measures their latency there.

import { Board, describe, element, topicOf } from "./board.js";
import { Feed } from "./feed.js";

const LIVE = "worldcup/2026/live";
const SAMPLES = 1_000;
const BUCKETS = 25; // Of 2 ms each; the last one includes all higher latencies.
const EVENTS_SHOWN = 40;

const $ = (id) => document.getElementById(id);
const board = new Board();
const nodes = { me: "", members: [] };
const latencies = []; // The last SAMPLES latencies, as a ring buffer.
let count = 0;
let waiting = []; // Publish times of the messages that the next frame shows.
let scheduled = false;
let link = { state: "connecting", detail: "" };

const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const feed = new Feed(`${scheme}//${location.host}/ws`, { state: showLink, message: take, audience: showAudience, notice });
feed.subscribe(LIVE, { last: 50 }, true);

function take(topic, state, isNew) {
  count += 1;
  const taken = board.take(state, topic !== LIVE, isNew);
  if (topic === LIVE) {
    tell(state);
    if (state.status !== "finished") feed.subscribe(topicOf(state.match), { last: 1 });
    if (state.event === "kick_off") lookAgainIn(100);
  } else if (taken && state.status === "finished") {
    feed.unsubscribe(topic);
  }
  if (isNew) waiting.push(state.published_ms);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(frame);
}

function frame() {
  scheduled = false;
  board.render();
  const now = Date.now();
  // A hidden tab gets no frames: the time that messages wait for it is not latency.
  const seen = document.hidden || now - lastVisible < 1_000 ? [] : waiting;
  for (const published of seen) latencies[measured++ % SAMPLES] = Math.max(0, now - published);
  waiting = [];
}

let measured = 0;
let lastVisible = 0;
document.addEventListener("visibilitychange", () => (lastVisible = Date.now()));

setInterval(showLatency, 500);
function showLatency() {
  $("count").textContent = count.toLocaleString();
  if (latencies.length === 0) return;
  const sorted = Float64Array.from(latencies).sort();
  for (const p of [50, 95, 99]) {
    const value = sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))];
    $(`p${p}`).textContent = `${value.toFixed(value < 10 ? 1 : 0)} ms`;
  }
  const buckets = new Array(BUCKETS).fill(0);
  for (const latency of latencies) buckets[Math.min(BUCKETS - 1, Math.floor(latency / 2))] += 1;
  const top = Math.max(...buckets);
  const bars = $("histogram");
  while (bars.children.length < BUCKETS) bars.append(element("i", ""));
  buckets.forEach((n, i) => (bars.children[i].style.height = `${(100 * n) / top}%`));
}

function showLink(state, detail = "") {
  link = { state, detail };
  const me = nodes.members.find(({ id }) => id === nodes.me);
  const name = me && me.name !== me.id ? ` (${me.name})` : "";
  const to = me ? ` to ${me.id}${name}` : "";
  $("connection").dataset.state = state;
  $("connection").textContent = state === "connected" ? `connected${to}` : `${state} ${detail}`;
}

// Sessions in the whole cluster: this page, other pages, and the simulated viewers of the demo.
function showAudience(_, count) {
  $("audience").hidden = false;
  $("audience").textContent = `${count.toLocaleString()} watching`;
}

// The events of all matches, newest first.
function tell(state) {
  const [home, away] = state.teams;
  const score = `${home} ${state.score[0]}–${state.score[1]} ${away}`;
  const what = state.goal ? `● ${describe(state.goal)}` : state.event.replace("_", " ");
  log(element("li", state.goal ? "goal" : "", element("b", "", what), element("span", "", score)));
}

function notice(text) {
  log(element("li", "notice", text));
}

function log(entry) {
  $("events").prepend(entry);
  while ($("events").children.length > EVENTS_SHOWN) $("events").lastChild.remove();
}

let nextLook = 0;
function lookAgainIn(ms) {
  clearTimeout(nextLook);
  nextLook = setTimeout(lookAtCluster, ms);
}

async function lookAtCluster() {
  lookAgainIn(2_000);
  try {
    const query = new URLSearchParams([LIVE, ...board.live().map(topicOf)].map((t) => ["topic", t]));
    const answer = await fetch(`/cluster?${query}`, { signal: AbortSignal.timeout(2_000) });
    if (answer.ok) showCluster(await answer.json());
  } catch {
    // The node is down or busy, which the state of the connection shows. The next request may succeed.
  }
}

function showCluster({ node, members, shards, topics = [] }) {
  nodes.me = node;
  nodes.members = members;
  showLink(link.state, link.detail);
  const ids = members.map(({ id }) => id);
  board.owners(new Map(topics.map(({ topic, owner }) => [topic, owner])), ids);
  board.render();
  const owned = (id) => shards.filter(({ owner }) => owner === id).length;
  $("nodes").replaceChildren(...members.map((member, i) => nodeRow(member, `node-${i % 6}`, owned(member.id))));
}

/** The address of a member's pages, with TLS as this page or without. */
function httpAddress(member) {
  return location.protocol === "https:" ? member.https : member.http;
}

function nodeRow(member, colour, owned) {
  const badge = element("span", `owner ${colour}`, member.id);
  const where = [member.name, member.region].filter(Boolean).join(" · ");
  const state = member.reachable ? member.state : "unreachable";
  const detail = element("small", "", `${state}, owns ${owned} shard${owned === 1 ? "" : "s"}`);
  const row = element("li", "", badge, element("span", "where", where, detail));
  row.dataset.reachable = member.reachable;
  if (member.id === nodes.me) {
    row.append(element("em", "", "this page"));
  } else if (httpAddress(member)) {
    const open = element("a", "", "open");
    open.href = `${location.protocol}//${httpAddress(member)}/`;
    row.append(open);
  }
  return row;
}

lookAgainIn(0);
