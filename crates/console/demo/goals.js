// Goals announce themselves: in a list for the eye, and in a live region for screen readers.

import { byId, element, setText } from "./dom.js";
import { describeGoal } from "./matches.js";
import { codeOf } from "./teams.js";

const SHOWN = 16;
/** At most one announcement in this time: a screen reader must come to its end. */
const ANNOUNCE_EVERY = 5_000;

export class Goals {
  #announceAt = 0;

  /** @param {import("./matches.js").PublishedState} state @param {boolean} isNew whether it was scored just now */
  add(state, isNew) {
    const { goal, teams = ["", ""], score } = state;
    if (!goal) return;
    const result = `${codeOf(teams[0])} ${score[0]}–${score[1]} ${codeOf(teams[1])}`;
    const entry = element("li", "", element("b", "", result), element("span", "", describeGoal(goal)));
    byId("goals").prepend(entry);
    while (byId("goals").children.length > SHOWN) byId("goals").lastElementChild?.remove();
    if (isNew) this.#announce(`Goal: ${describeGoal(goal)}. ${teams[0]} ${score[0]}, ${teams[1]} ${score[1]}.`);
  }

  /** @param {string} text */
  #announce(text) {
    if (performance.now() < this.#announceAt) return;
    this.#announceAt = performance.now() + ANNOUNCE_EVERY;
    setText(byId("announcement"), text);
  }
}
