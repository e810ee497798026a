// The cards of the matches. Text of messages is never inserted as markup.

const FINISHED_SHOWN = 24;
const LABELS = { half_time: "half-time", extra_time: "extra time", penalties: "penalties" };

export class Board {
  #matches = new Map(); // number → {state, owner, card, changed, goal}
  #live = document.getElementById("live");
  #finished = document.getElementById("finished");
  #quiet = document.getElementById("quiet");

  // Applies a state from the match's own topic or from the topic of all events. Their order is not
  // defined, so the newer publish wins; only the match's own topic has the list of goals. A new goal is
  // highlighted. Returns whether the state was applied.
  take(state, own, isNew) {
    const match = this.#matches.get(state.match) ?? { state: null, owner: null, card: null };
    const before = match.state;
    if (before && before.published_ms > state.published_ms) return false;
    let goals = state.goals ?? [];
    if (!own && state.event !== "kick_off") goals = withGoal(before?.goals ?? [], state.goal);
    match.goal ||= isNew && state.event === "goal";
    match.state = { ...state, goals };
    match.changed = true;
    this.#matches.set(state.match, match);
    return true;
  }

  live() {
    const on = [...this.#matches.values()].filter(({ state }) => state.status !== "finished");
    return on.map(({ state }) => state.match);
  }

  owners(byTopic, names) {
    for (const match of this.#matches.values()) {
      const owner = byTopic.get(topicOf(match.state.match));
      if (!owner || owner === match.owner) continue;
      match.owner = owner;
      match.ownerClass = `node-${names.indexOf(owner) % 6}`;
      match.changed = true;
    }
  }

  // Called once for each animation frame; renders the changed matches.
  render() {
    let moved = false;
    for (const match of this.#matches.values()) {
      if (!match.changed) continue;
      match.changed = false;
      const finished = match.state.status === "finished";
      moved ||= !match.card || finished !== match.finished;
      match.finished = finished;
      match.card ??= newCard();
      fill(match.card, match);
      if (match.goal) flash(match.card);
      match.goal = false;
    }
    if (moved) this.#arrange();
  }

  #arrange() {
    const matches = [...this.#matches.values()];
    const on = matches.filter((m) => !m.finished).sort((a, b) => a.state.match - b.state.match);
    this.#live.replaceChildren(...on.map((match) => match.card.root));
    this.#quiet.hidden = on.length > 0;
    const over = matches.filter((m) => m.finished);
    over.sort((a, b) => b.state.published_ms - a.state.published_ms);
    over.splice(FINISHED_SHOWN).forEach(({ state }) => this.#matches.delete(state.match));
    this.#finished.replaceChildren(...rounds(over));
  }
}

export function topicOf(number) {
  return `worldcup/2026/match/${number}`;
}

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function withGoal(goals, goal) {
  if (!goal) return goals;
  const same = (other) => other.scorer === goal.scorer && other.minute === goal.minute;
  return goals.some(same) ? goals : [...goals, goal];
}

function rounds(matches) {
  const sections = new Map();
  for (const match of matches) {
    const { round } = match.state;
    if (!sections.has(round)) {
      const cards = element("div", "cards small");
      sections.set(round, cards);
    }
    sections.get(round).append(match.card.root);
  }
  return [...sections].flatMap(([round, cards]) => [element("h2", "", round), cards]);
}

function newCard() {
  const part = (className) => element("span", className);
  const card = { round: part("round"), owner: part("owner"), minute: part("minute"), goals: [] };
  card.rows = [0, 1].map(() => {
    const row = { mark: part("mark"), name: part("name"), score: part("score") };
    row.root = element("div", "team", row.mark, row.name, row.score);
    return row;
  });
  card.clock = element("div", "clock", element("i", ""));
  card.ticker = element("ul", "ticker");
  const top = element("div", "top", card.round, card.owner, card.minute);
  card.root = element("article", "card", top, ...card.rows.map((r) => r.root), card.clock, card.ticker);
  return card;
}

function fill(card, { state, owner, ownerClass }) {
  card.root.dataset.status = state.status;
  card.root.title = `${topicOf(state.match)} · ${state.ground}`;
  const inRound = state.status === "finished" ? [] : [state.round];
  card.round.textContent = [...inRound, state.group ?? state.ground].join(" · ");
  card.owner.textContent = owner ?? "";
  card.owner.className = `owner ${ownerClass ?? ""}`;
  card.minute.textContent = minute(state);
  const shootOut = state.penalties;
  state.teams.forEach((team, side) => {
    const row = card.rows[side];
    row.mark.textContent = team.slice(0, 3).toUpperCase();
    row.mark.style.setProperty("--hue", hue(team));
    row.name.textContent = team;
    row.score.textContent = state.score[side] + (shootOut ? ` (${shootOut[side]})` : "");
    const [own, other] = [side, 1 - side].map((s) => state.score[s] + (shootOut?.[s] ?? 0) / 100);
    row.root.dataset.leads = own > other;
  });
  const length = ["extra_time", "penalties"].includes(state.status) ? 120 : 90;
  const played = Math.min(1, parseInt(state.minute, 10) / length || 0);
  card.clock.firstChild.style.width = `${played * 100}%`;
  card.ticker.replaceChildren(...state.goals.map((goal) => scored(goal)));
}

export function describe(goal) {
  return `${goal.scorer} ${goal.minute}′${goal.penalty ? " (pen.)" : ""}${goal.own_goal ? " (o.g.)" : ""}`;
}

function scored(goal) {
  return element("li", goal.team === 0 ? "home" : "away", describe(goal));
}

function minute(state) {
  if (state.status === "finished") {
    return state.penalties ? "after penalties" : parseInt(state.minute, 10) > 90 ? "after extra time" : "full time";
  }
  const label = LABELS[state.status];
  return label && state.status !== "extra_time" ? label : `${state.minute}′`;
}

function flash(card) {
  card.root.getAnimations().forEach((animation) => animation.cancel());
  card.root.animate([{ boxShadow: "0 0 0 4px var(--goal)", background: "var(--goal-soft)" }, {}], 1_600);
}

function hue(text) {
  return [...text].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
}
