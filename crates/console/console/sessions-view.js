// The sessions that are furthest behind the newest message of a topic.

import { element, refresh, setText } from "./dom.js";
import { bytes, duration, plural, whole } from "./format.js";
import { poll } from "./poll.js";
import { link } from "./router.js";
import { read } from "./session.js";

/** @typedef {import("./types.js").SlowSession} SlowSession */
/** @typedef {import("./types.js").SlowSessions} SlowSessions */
/** @typedef {import("./cluster-store.js").ClusterStore} ClusterStore */

/** @param {ClusterStore} store @returns {import("./types.js").View} */
export function sessionsView(store) {
  const rows = element("tbody", {});
  const note = element("p", { class: "verdict", role: "status" });
  const list = table(rows);
  const update = (/** @type {SlowSessions} */ answer) => {
    refresh(rows, ...answer.sessions.map((session) => row(store, session)));
    list.hidden = !answer.sessions.length;
    setText(note, describe(store, answer));
  };
  const stop = poll(
    async (signal) => update(await read("sessions", { limit: 50 }, signal)),
    2_000,
    (error) => error && setText(note, `No list: ${/** @type {Error} */ (error).message}`),
  );
  const about =
    "Sessions over WebSocket, event streams and QUIC, of all nodes, by the number of messages that they have yet to receive.";
  const panel = element("section", { class: "panel" }, element("p", {}, about), note, list);
  return {
    title: "Slow sessions",
    element: element("div", { class: "view" }, element("h1", {}, "Slow sessions"), panel),
    stop,
  };
}

/** @param {HTMLElement} rows */
function table(rows) {
  const columns = ["Session", "Behind on", "Messages", "Oldest", "Waiting", "State", "Client", "Topics"];
  const numbers = ["Messages", "Oldest", "Waiting", "Topics"];
  const head = columns.map((name) =>
    element("th", { scope: "col", class: numbers.includes(name) ? "number" : undefined }, name),
  );
  const caption = element("caption", { class: "hidden" }, "Slow sessions, the furthest behind first");
  return element(
    "div",
    { class: "scroll", hidden: true },
    element("table", {}, caption, element("thead", {}, element("tr", {}, ...head)), rows),
  );
}

/** @param {ClusterStore} store @param {SlowSession} session */
function row(store, session) {
  const number = (/** @type {string} */ text) => element("td", { class: "number" }, text);
  const client = [session.address || "no address", session.subject].filter(Boolean).join(", ");
  const state = session.blocked
    ? element("span", { class: "state warning" }, "! does not read")
    : element("span", { class: "state" }, "catches up");
  return element(
    "tr",
    {},
    element(
      "th",
      { scope: "row" },
      `${store.name(session.node)} ${session.id}`,
      element("span", { class: "note" }, session.transport),
    ),
    element("td", {}, element("a", { href: link("topic", session.topic) }, session.topic)),
    number(whole(session.messages)),
    number(duration(session.oldest_ms)),
    number(bytes(session.bytes)),
    element("td", {}, state),
    element("td", {}, client),
    number(whole(session.topics)),
  );
}

/** @param {ClusterStore} store @param {SlowSessions} answer */
function describe(store, answer) {
  const looked = `${plural(answer.subscriptions, "subscription")} looked at`;
  const missing = answer.incomplete.length
    ? `; no answer from ${answer.incomplete.map((id) => store.name(id)).join(", ")}`
    : "";
  if (answer.sessions.length) return `${plural(answer.sessions.length, "session")} behind · ${looked}${missing}`;
  return missing ? `No slow session found · ${looked}${missing}` : `✓ Every session keeps up · ${looked}`;
}
