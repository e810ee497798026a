// The card of a match that is on.

import { element, isMotionReduced, setText } from "./dom.js";
import { describeGoal, leader, phaseOf, topicOf } from "./matches.js";
import { codeOf, hueOf } from "./teams.js";

/** Time that a goal stands out. */
const GOAL_MS = 2_400;

export class Card {
  #group = element("span", "stage");
  #phase = element("span", "minute");
  #clock = element("i", "");
  #goals = element("ul", "scorers");
  #rows = [0, 1].map(() => {
    const parts = { mark: element("span", "mark"), name: element("span", "name"), score: element("span", "score") };
    return { ...parts, root: element("div", "team", parts.mark, parts.name, parts.score) };
  });
  root = element(
    "article",
    "card",
    element("div", "top", this.#group, this.#phase),
    ...this.#rows.map(({ root }) => root),
    element("div", "clock", this.#clock),
    this.#goals,
  );

  /** @param {import("./matches.js").Match} match */
  show({ state, goals }) {
    const { teams = ["", ""], penalties, status = "upcoming", minute = "" } = state;
    this.root.dataset.status = status;
    this.root.dataset.match = String(state.match);
    this.root.title = `${topicOf(state.match)} · ${state.ground}`;
    setText(this.#group, state.group ?? state.round);
    setText(this.#phase, phaseOf(state));
    const leading = leader(state);
    teams.forEach((team, side) => {
      const { mark, name, score, root } = this.#rows[side];
      setText(mark, codeOf(team));
      mark.style.setProperty("--hue", String(hueOf(team)));
      setText(name, team);
      setText(score, `${state.score[side]}${penalties ? ` (${penalties[side]})` : ""}`);
      root.dataset.leads = String(leading === side);
    });
    const length = ["extra_time", "penalties"].includes(status) ? 120 : 90;
    const played = Math.min(1, parseInt(minute, 10) / length || 0);
    this.#clock.style.setProperty("--played", String(played));
    if (this.#goals.children.length !== goals.length) {
      this.#goals.replaceChildren(
        ...goals.map((goal) => element("li", goal.team === 0 ? "home" : "away", describeGoal(goal))),
      );
    }
  }

  /** A goal of a side. @param {number} side */
  celebrate(side) {
    highlight(this.root);
    bounce(this.#rows[side].score);
  }
}

/** Makes an element stand out for a moment: with a glow that fades, or with a border where motion is unwanted. @param {HTMLElement} root */
export function highlight(root) {
  const since = String(performance.now());
  root.dataset.goal = since;
  setTimeout(() => root.dataset.goal === since && delete root.dataset.goal, GOAL_MS);
  if (isMotionReduced()) return;
  const glow = element("span", "glow");
  root.append(glow);
  const fade = glow.animate([{ opacity: 1 }, { opacity: 0 }], { duration: GOAL_MS, easing: "ease-out" });
  fade.finished.finally(() => glow.remove()).catch(() => {});
}

/** @param {HTMLElement} score */
export function bounce(score) {
  if (isMotionReduced()) return;
  score.animate([{ transform: "scale(1)" }, { transform: "scale(1.7)" }, { transform: "scale(1)" }], {
    duration: 600,
    easing: "ease-out",
  });
}
