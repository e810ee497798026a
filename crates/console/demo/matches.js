// The matches of the tournament as far as this page has received them. No DOM.

/**
 * @typedef {object} Goal
 * @property {number} team the index of the team it counts for
 * @property {string} scorer
 * @property {string} minute
 * @property {boolean} penalty
 * @property {boolean} own_goal
 */

/** @typedef {"live" | "half_time" | "extra_time" | "penalties" | "finished"} Status */

/**
 * The state of a match as it is published, and as the wall has it.
 * @typedef {object} PublishedState
 * @property {number} match
 * @property {string} round
 * @property {string} [group]
 * @property {string} ground
 * @property {number} kick_off in seconds since 1970
 * @property {[string, string]} [teams] absent while nobody knows them
 * @property {[number, number]} score
 * @property {[number, number]} [penalties]
 * @property {string} [minute]
 * @property {Status} [status] absent before the kick-off
 * @property {string} [event] what changed
 * @property {Goal} [goal] the goal, when one changed it
 * @property {Goal[]} [goals] all goals, on the topic of the match
 * @property {number} [published_ms]
 */

/**
 * @typedef {object} Match
 * @property {PublishedState} state
 * @property {Goal[]} goals
 * @property {number} publishedMs
 */

export class Matches {
  /** @type {Map<number, Match>} */
  #matches = new Map();

  /** Replaces all matches. @param {PublishedState[]} states */
  load(states) {
    this.#matches = new Map(states.map((state) => [state.match, { state, goals: [], publishedMs: 0 }]));
  }

  /**
   * Applies a state from the topic of the match or from the topic of all events. Their order is not defined, so the
   * newer publish wins. Only the topic of the match has the list of goals.
   * @param {PublishedState} state
   * @param {boolean} isOwnTopic
   * @returns {Match | undefined} the match, if the state is new
   */
  apply(state, isOwnTopic) {
    const { published_ms: publishedMs = 0 } = state;
    const known = this.#matches.get(state.match);
    if (known && known.publishedMs > publishedMs) return undefined;
    let goals = state.goals ?? [];
    if (!isOwnTopic && state.event !== "kick_off") goals = withGoal(known?.goals ?? [], state.goal);
    const match = { state, goals, publishedMs };
    this.#matches.set(state.match, match);
    return match;
  }

  /** Whether a kick-off is that of a match that was played: the tournament begins again. @param {PublishedState} state */
  isNextRun(state) {
    return state.event === "kick_off" && this.#matches.get(state.match)?.state.status === "finished";
  }

  /** The tournament begins again: no match was played, and nobody knows who reaches the knock-out rounds. */
  restart() {
    this.load(
      this.all().map(({ state: { match, round, group, ground, kick_off, teams } }) => ({
        match,
        round,
        group,
        ground,
        kick_off,
        teams: group ? teams : undefined,
        score: [0, 0],
      })),
    );
  }

  /** All matches in the order of their numbers. */
  all() {
    return [...this.#matches.values()].sort((a, b) => a.state.match - b.state.match);
  }

  /** The numbers of the matches that are on. */
  live() {
    return this.all()
      .filter(isOn)
      .map(({ state }) => state.match);
  }

  /** How many matches are over. */
  finishedCount() {
    return this.all().filter(({ state }) => state.status === "finished").length;
  }
}

/** @param {Match} match */
export const isOn = ({ state }) => state.status !== undefined && state.status !== "finished";

/** @param {Goal[]} goals @param {Goal | undefined} goal */
function withGoal(goals, goal) {
  if (!goal) return goals;
  const isSame = (/** @type {Goal} */ other) => other.scorer === goal.scorer && other.minute === goal.minute;
  return goals.some(isSame) ? goals : [...goals, goal];
}

/** The side that leads, with the shoot-out, or -1. @param {PublishedState} state */
export function leader({ score, penalties = [0, 0] }) {
  const [home, away] = [0, 1].map((side) => score[side] + penalties[side] / 100);
  return home === away ? -1 : home > away ? 0 : 1;
}

/** @param {Goal} goal */
export function describeGoal({ scorer, minute, penalty, own_goal: isOwn }) {
  return `${scorer} ${minute}′${penalty ? " (pen.)" : ""}${isOwn ? " (o.g.)" : ""}`;
}

/**
 * The points of the teams of a group so far, best first: by points, goal difference, goals.
 * @param {Match[]} matches of the group
 * @returns {{ team: string, points: number }[]}
 */
export function standings(matches) {
  /** @type {Map<string, { team: string, points: number, difference: number, goals: number }>} */
  const rows = new Map();
  for (const { state } of matches) {
    const { teams = ["", ""], score, status } = state;
    teams.forEach((team, side) => {
      const row = rows.get(team) ?? { team, points: 0, difference: 0, goals: 0 };
      rows.set(team, row);
      if (!status) return;
      const difference = score[side] - score[1 - side];
      row.points += difference > 0 ? 3 : difference === 0 ? 1 : 0;
      row.difference += difference;
      row.goals += score[side];
    });
  }
  return [...rows.values()].sort(
    (a, b) => b.points - a.points || b.difference - a.difference || b.goals - a.goals || a.team.localeCompare(b.team),
  );
}

const LABELS = { half_time: "half-time", penalties: "penalties" };

/** Where a match is. @param {PublishedState} state */
export function phaseOf({ status, minute = "", penalties }) {
  if (!status) return "";
  if (status === "finished") {
    return penalties ? "after penalties" : parseInt(minute, 10) > 90 ? "after extra time" : "full time";
  }
  return LABELS[/** @type {keyof typeof LABELS} */ (status)] ?? `${minute}′`;
}

/** The topic of a match. @param {number} number */
export const topicOf = (number) => `worldcup/2026/match/${number}`;
