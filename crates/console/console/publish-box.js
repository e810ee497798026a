// Publishes a message to a topic and shows the outcome.

import { PublishError } from "/sdk/index.js";
import { element, setText } from "./dom.js";
import { duration } from "./format.js";

/** @param {import("/sdk/index.js").Client} client @param {string} topic */
export function publishBox(client, topic) {
  const body = element("textarea", {
    id: "publish-body",
    rows: 5,
    spellcheck: "false",
    "aria-describedby": "publish-help",
  });
  const kind = element(
    "select",
    { id: "publish-kind" },
    element("option", { value: "json" }, "JSON"),
    element("option", { value: "text" }, "Text"),
  );
  const button = element("button", { type: "submit", class: "primary" }, "Publish");
  const outcome = element("p", { class: "outcome", role: "status" });
  const show = (/** @type {string} */ level, /** @type {string} */ text) => {
    outcome.dataset.level = level;
    setText(outcome, text);
  };
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const data = parse(body.value, kind.value);
    if (data === undefined) return show("warning", "! This is not JSON: choose Text, or quote it");
    button.disabled = true;
    show("", "Waiting for the acknowledgement");
    const begin = performance.now();
    try {
      const { position, durability } = await client.publish(topic, data);
      show("ok", `✓ Acknowledged at ${position}, ${durability}, after ${duration(performance.now() - begin)}`);
    } catch (error) {
      show(...describe(error));
    }
    button.disabled = false;
  };
  return element(
    "form",
    { class: "publish", submit },
    element("label", { for: "publish-body" }, "Message"),
    body,
    element(
      "p",
      { id: "publish-help", class: "note" },
      "With your own grants. Each press stores one message, however often the network fails.",
    ),
    element("div", { class: "row" }, element("label", { for: "publish-kind" }, "As"), kind, button),
    outcome,
  );
}

/** @param {string} text @param {string} kind */
function parse(text, kind) {
  if (kind === "text") return text;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** @param {unknown} error @returns {[level: string, text: string]} */
function describe(error) {
  if (error instanceof PublishError && error.outcome === "unknown") {
    return ["warning", `! Unknown: it may be stored. ${error.message}`];
  }
  const { code, message } = /** @type {import("/sdk/index.js").PushonceError} */ (error);
  return ["critical", `✕ Rejected, ${code}: ${message}`];
}
