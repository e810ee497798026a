// Asks for the token of an operator.

import { element } from "./dom.js";

/**
 * @param {string} reason why a token is needed
 * @param {(token: string) => void} onToken
 * @returns {import("./types.js").View}
 */
export function signInView(reason, onToken) {
  const input = element("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    required: true,
    "aria-describedby": "token-help",
  });
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    const token = input.value.trim();
    if (token) onToken(token);
  };
  const form = element(
    "form",
    { class: "panel sign-in", submit },
    element("h1", {}, "Sign in"),
    element("p", { role: "alert" }, reason),
    element("label", { for: "token" }, "Access token"),
    input,
    element(
      "p",
      { id: "token-help", class: "note" },
      "With the grant admin: read, and with grants for the topics to read or publish. It stays in this tab.",
    ),
    element("button", { type: "submit", class: "primary" }, "Sign in"),
  );
  return { title: "Sign in", element: form, stop: () => {} };
}
