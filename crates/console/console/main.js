// Shows the view of the address, and whether the cluster is well on each of them.

import { ClusterStore } from "./cluster-store.js";
import { clusterView } from "./cluster-view.js";
import { element, setText } from "./dom.js";
import { assess } from "./health.js";
import { parse } from "./router.js";
import { DataError, hasToken, setToken } from "./session.js";
import { sessionsView } from "./sessions-view.js";
import { signInView } from "./sign-in.js";
import { topicView } from "./topic-view.js";
import { topicsView } from "./topics-view.js";

/** @typedef {import("./types.js").View} View */

const main = /** @type {HTMLElement} */ (document.querySelector("#main"));
const chip = /** @type {HTMLElement} */ (document.querySelector("#health"));
const signOut = /** @type {HTMLButtonElement} */ (document.querySelector("#sign-out"));
const links = [
  .../** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll("nav[aria-label=Console] a")),
];
const store = new ClusterStore();

/** @type {View | undefined} */
let view;
let isSigningIn = false;

/** @returns {View} */
function openView() {
  const route = parse(location.hash);
  switch (route.view) {
    case "cluster":
      return clusterView(store);
    case "topics":
      return topicsView(route);
    case "topic":
      return topicView(store, route);
    case "sessions":
      return sessionsView(store);
    default: {
      const text = element("p", {}, "There is no such page.");
      return { title: "Not found", element: text, stop: () => {} };
    }
  }
}

/** @param {View} next */
function show(next) {
  const focused = document.activeElement?.id;
  view?.stop();
  view = next;
  main.replaceChildren(next.element);
  document.title = `${next.title} – Pushonce console`;
  const { view: name } = parse(location.hash);
  for (const link of links) {
    const isCurrent = link.hash.startsWith(`#/${name}`);
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  keepFocus(focused);
}

/** A search replaces the view while its field has the focus. @param {string | undefined} id */
function keepFocus(id) {
  const field = id ? document.getElementById(id) : null;
  if (!(field instanceof HTMLInputElement) || !main.contains(field)) return;
  field.focus();
  if (field.type === "search") field.setSelectionRange(field.value.length, field.value.length);
}

/** @param {string} reason */
function signIn(reason) {
  if (isSigningIn) return;
  isSigningIn = true;
  store.stop();
  setToken(undefined);
  signOut.hidden = true;
  delete chip.dataset.level;
  setText(chip, "Signed out");
  show(
    signInView(reason, (token) => {
      setToken(token);
      isSigningIn = false;
      store.start();
      show(openView());
    }),
  );
  document.getElementById("token")?.focus();
}

store.watch((cluster, error) => {
  if (error instanceof DataError && error.needsToken) {
    return signIn(
      hasToken() ? `This token does not open the console: ${error.message}` : "This cluster asks for a token.",
    );
  }
  // The first answer decides between the sign-in and the view of the address.
  if (!view && (cluster || error)) show(openView());
  const { level, mark, title } = assess(cluster, error);
  chip.dataset.level = level;
  setText(chip, `${mark} ${title}`);
  signOut.hidden = !hasToken();
});

signOut.addEventListener("click", () => signIn("You are signed out."));
addEventListener("hashchange", () => {
  if (isSigningIn || !view) return;
  show(openView());
  if (document.activeElement === document.body) main.focus({ preventScroll: true });
});

store.start();
