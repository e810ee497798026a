// All matches of the tournament: a panel for each group, and a column for each knock-out round. The matches that are
// on have a card of their own above.

import { Card, bounce, highlight } from "./card.js";
import { byId, element, setText } from "./dom.js";
import { isOn, leader, standings } from "./matches.js";
import { codeOf } from "./teams.js";

/** @typedef {import("./matches.js").Match} Match */

const DAY = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", timeZone: "UTC" });

/** A line with one match. */
class Tile {
  #when = element("span", "when");
  #sides = [0, 1].map(() => ({ code: element("span", "code"), score: element("span", "goals") }));
  root = element(
    "li",
    "tile",
    this.#sides[0].code,
    element("span", "result", this.#sides[0].score, element("span", "dash", "–"), this.#sides[1].score),
    this.#sides[1].code,
    this.#when,
  );

  /** @param {Match} match */
  show(match) {
    const { teams, score, status = "upcoming" } = match.state;
    this.root.dataset.status = isOn(match) ? "on" : status;
    this.root.dataset.match = String(match.state.match);
    this.root.title = teams ? `${teams[0]} – ${teams[1]}, ${match.state.ground}` : match.state.ground;
    const leading = leader(match.state);
    this.#sides.forEach(({ code, score: goals }, side) => {
      setText(code, teams ? codeOf(teams[side]) : "tbd");
      code.title = teams?.[side] ?? "not known yet";
      code.dataset.leads = String(status !== "upcoming" && leading === side);
      setText(goals, status === "upcoming" ? "" : String(score[side]));
    });
    setText(this.#when, whenOf(match));
  }

  /** @param {number} side */
  celebrate(side) {
    highlight(this.root);
    bounce(this.#sides[side].score);
  }
}

const SHORT = { half_time: "HT", penalties: "pens" };

/** Beside the score: the day, the clock, or how the match ended. @param {Match} match */
function whenOf({ state }) {
  const { status, minute = "", penalties, kick_off: kickOff } = state;
  if (!status) return DAY.format(kickOff * 1_000);
  if (status !== "finished") return SHORT[/** @type {keyof typeof SHORT} */ (status)] ?? `${minute}′`;
  if (penalties) return `${penalties[0]}–${penalties[1]} p`;
  return parseInt(minute, 10) > 90 ? "aet" : "";
}

export class Wall {
  #matches;
  /** @type {Map<number, Tile>} */
  #tiles = new Map();
  /** The cards of the matches that are on. @type {Map<number, Card>} */
  #cards = new Map();
  /** The table below each group. @type {Map<string, HTMLElement>} */
  #tables = new Map();

  /** @param {import("./matches.js").Matches} matches */
  constructor(matches) {
    this.#matches = matches;
  }

  /** Builds everything. */
  build() {
    this.#tiles.clear();
    this.#cards.clear();
    this.#tables.clear();
    const matches = this.#matches.all();
    for (const match of matches) this.#tiles.set(match.state.match, new Tile());
    const groups = [...new Set(matches.flatMap(({ state }) => state.group ?? []))].sort();
    byId("groups").replaceChildren(...groups.map((group) => this.#groupPanel(group)));
    const isKnockOut = (/** @type {Match} */ { state }) => !state.group;
    const rounds = [...new Set(matches.filter(isKnockOut).map(({ state }) => state.round))];
    // The last two rounds have one match each and share a column.
    const columns = rounds.map((round) => this.#round(round));
    const last = element("div", "last", ...columns.splice(-2));
    byId("knock-out").replaceChildren(...columns, last);
    byId("live").replaceChildren();
    for (const match of matches) this.update(match);
    this.#showProgress();
  }

  /** Shows a match as it is now. @param {Match} match */
  update(match) {
    const { match: number, group } = match.state;
    this.#tiles.get(number)?.show(match);
    if (group) this.#showTable(group);
    const card = this.#cards.get(number);
    if (isOn(match)) this.#cardOf(number).show(match);
    else if (card) this.#removeCard(number, card);
    if (isOn(match) !== !!card) this.#showProgress();
  }

  /** Makes a goal stand out. @param {number} number @param {number} side */
  celebrate(number, side) {
    this.#tiles.get(number)?.celebrate(side);
    this.#cards.get(number)?.celebrate(side);
  }

  /** @param {number} number */
  #cardOf(number) {
    const known = this.#cards.get(number);
    if (known) return known;
    const card = new Card();
    this.#cards.set(number, card);
    const later = [...this.#cards].filter(([other]) => other > number).sort(([a], [b]) => a - b)[0];
    byId("live").insertBefore(card.root, later?.[1].root ?? null);
    return card;
  }

  /** @param {number} number @param {Card} card */
  #removeCard(number, card) {
    card.root.remove();
    this.#cards.delete(number);
  }

  #showProgress() {
    const [finished, all] = [this.#matches.finishedCount(), this.#matches.all().length];
    byId("quiet").hidden = this.#cards.size > 0;
    setText(byId("quiet"), finished === all ? "The tournament is over." : "The next kick-off appears by itself.");
    setText(byId("progress-text"), `${finished} of ${all} matches played`);
    /** @type {HTMLProgressElement} */ (byId("progress")).value = all ? finished / all : 0;
  }

  /** @param {string} group */
  #ofGroup(group) {
    return this.#matches.all().filter(({ state }) => state.group === group);
  }

  /** @param {Match[]} matches */
  #tilesOf(matches) {
    return matches.map(({ state }) => this.#tiles.get(state.match)?.root ?? "");
  }

  /** @param {string} group */
  #groupPanel(group) {
    const table = element("ol", "table");
    this.#tables.set(group, table);
    const tiles = element("ul", "tiles", ...this.#tilesOf(this.#ofGroup(group)));
    table.setAttribute("aria-label", `${group}, points`);
    return element("section", "group", element("h3", "", group), tiles, table);
  }

  /** @param {string} round */
  #round(round) {
    const matches = this.#matches.all().filter(({ state }) => state.round === round);
    return element("section", "round", element("h3", "", round), element("ul", "tiles", ...this.#tilesOf(matches)));
  }

  /** @param {string} group */
  #showTable(group) {
    const rows = standings(this.#ofGroup(group));
    const text = rows.map(({ team, points }) => `${codeOf(team)} ${points}`);
    const table = this.#tables.get(group);
    if (!table) return;
    if (table.children.length !== rows.length) table.replaceChildren(...rows.map(() => element("li", "")));
    text.forEach((row, index) => setText(table.children[index], row));
  }
}
