//! What happens in the tournament, in order, and what is published of it.

use bytes::Bytes;
use pushonce_core::Topic;
use serde::Serialize;

use super::{Goal, Match, MatchTime, Tournament};

/// The clock of a match is published this often, in minutes of play, so that a board moves without
/// goals.
const CLOCK_MINUTES: u32 = 5;

/// One change of one match.
#[derive(Clone, Debug)]
pub struct MatchEvent {
    /// Minutes since the Unix epoch, UTC.
    pub at_minute: u64,
    /// The match's own topic.
    pub topic: Topic,
    /// Where it is told to those who follow everything; none when only the clock moved.
    pub live_topic: Option<Topic>,
    /// The match after the change.
    pub state: MatchState,
}

/// A match at one moment, as it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MatchState {
    /// 1 to 104.
    #[serde(rename = "match")]
    pub number: u32,
    /// `Matchday 1`, `Final`.
    pub round: String,
    /// `BarGroup A`; absent in the knock-out rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where it is played.
    pub ground: String,
    /// Seconds since the Unix epoch.
    pub kick_off: u64,
    /// Who plays.
    pub teams: [String; 2],
    /// Goals so far, without those of the shoot-out.
    pub score: [u32; 2],
    /// The shoot-out, once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalties: Option<[u32; 2]>,
    /// The referee's clock: `90+4`.
    pub minute: String,
    /// Where the match stands.
    pub status: MatchStatus,
    /// What changed.
    pub event: MatchEventKind,
    /// The goal that fell, when one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<PublishedGoal>,
    /// All goals so far; left out where the event is told to everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub goals: Vec<PublishedGoal>,
}

/// Where a match stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchStatus {
    /// Being played.
    Live,
    /// The break.
    HalfTime,
    /// The thirty minutes more.
    ExtraTime,
    /// From the penalty spot.
    Penalties,
    /// Over.
    Finished,
}

/// What changed in a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchEventKind {
    /// It began.
    KickOff,
    /// Only the minute.
    Clock,
    /// The score.
    Goal,
    /// The first half is over.
    HalfTime,
    /// The second half began.
    SecondHalf,
    /// Level after ninety minutes: thirty more.
    ExtraTime,
    /// Level after those too.
    Penalties,
    /// It ended.
    FullTime,
}

/// A goal as it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublishedGoal {
    /// The index of the team it counts for.
    pub team: usize,
    /// Who scored, for whichever team.
    pub scorer: String,
    /// The referee's clock: `90+4`.
    pub minute: String,
    /// From the penalty spot, in play.
    pub penalty: bool,
    /// Scored by a player of the other team.
    pub own_goal: bool,
}

/// What is published: the state, and when it was.
#[derive(Serialize)]
struct PublishedState<'s> {
    #[serde(flatten)]
    state: &'s MatchState,
    /// Milliseconds since the Unix epoch.
    published_ms: f64,
}

/// Everything that happens, in the order in which it happened; matches that were played at the same
/// time interleave.
pub fn build_events(tournament: &Tournament) -> Vec<MatchEvent> {
    let of_match = |m: &Match| events_of_match(m, &tournament.live);
    let mut events: Vec<MatchEvent> = tournament.matches.iter().flat_map(of_match).collect();
    // Stable: what a match has in one minute keeps its order.
    events.sort_by_key(|event| event.at_minute);
    events
}

impl MatchEvent {
    /// What to publish, as JSON: the state on the match's own topic, and the event for those who
    /// follow everything. `published_ms` is now, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// None for the data that the binary carries.
    pub fn messages(&self, published_ms: f64) -> Result<Vec<(Topic, Bytes)>, serde_json::Error> {
        let encode = |state: &MatchState| {
            serde_json::to_vec(&PublishedState { state, published_ms }).map(Bytes::from)
        };
        let mut messages = vec![(self.topic.clone(), encode(&self.state)?)];
        if let Some(live) = &self.live_topic {
            let without_goals = MatchState { goals: vec![], ..self.state.clone() };
            messages.push((live.clone(), encode(&without_goals)?));
        }
        Ok(messages)
    }
}

/// When a happening falls, in minutes since the kick-off, what it is, and what the clock shows.
struct MatchIncident<'m> {
    at_minute: u32,
    kind: MatchEventKind,
    match_time: MatchTime,
    goal: Option<&'m Goal>,
}

/// One match from kick-off to the end.
fn events_of_match(m: &Match, live: &Topic) -> Vec<MatchEvent> {
    let mut state = MatchState::at_kick_off(m);
    let mut events = Vec::new();
    for incident in incidents(m) {
        state.apply(&incident);
        if incident.kind == MatchEventKind::FullTime {
            state.penalties = m.score.penalties;
        }
        events.push(MatchEvent {
            at_minute: m.kick_off + u64::from(incident.at_minute),
            topic: m.topic.clone(),
            live_topic: (incident.kind != MatchEventKind::Clock).then(|| live.clone()),
            state: state.clone(),
        });
    }
    events
}

fn incidents<'m>(m: &'m Match) -> Vec<MatchIncident<'m>> {
    let periods = StoppageTimes::for_match(m);
    let without_goal = |at, kind, minute| MatchIncident {
        at_minute: at,
        kind,
        match_time: MatchTime { minute, added: 0 },
        goal: None,
    };
    let goal = |goal: &'m Goal| MatchIncident {
        at_minute: periods.minute_since_kick_off(goal.match_time),
        kind: MatchEventKind::Goal,
        match_time: goal.match_time,
        goal: Some(goal),
    };
    let mut incidents = vec![
        without_goal(0, MatchEventKind::KickOff, 0),
        without_goal(periods.period_end(0), MatchEventKind::HalfTime, 45),
        without_goal(periods.period_start(1), MatchEventKind::SecondHalf, 45),
    ];
    incidents.extend(m.goals.iter().map(goal));
    let minutes = if m.score.extra_time.is_some() { 120 } else { 90 };
    let ticks = (CLOCK_MINUTES..minutes).step_by(CLOCK_MINUTES as usize).filter(|m| m % 45 != 0);
    incidents.extend(ticks.map(|minute| {
        without_goal(
            periods.minute_since_kick_off(MatchTime { minute, added: 0 }),
            MatchEventKind::Clock,
            minute,
        )
    }));
    if m.score.extra_time.is_some() {
        incidents.push(without_goal(periods.period_start(2), MatchEventKind::ExtraTime, 90));
    }
    let end = periods.period_end(if m.score.extra_time.is_some() { 2 } else { 1 });
    if m.score.penalties.is_some() {
        incidents.push(without_goal(end, MatchEventKind::Penalties, 120));
        incidents.push(without_goal(end + SHOOT_OUT_MINUTES, MatchEventKind::FullTime, 120));
    } else {
        incidents.push(without_goal(end, MatchEventKind::FullTime, minutes));
    }
    incidents.sort_by_key(|happening| happening.at_minute);
    incidents
}

/// About what one takes.
const SHOOT_OUT_MINUTES: u32 = 10;

/// The clock's minute in which each period ends.
const PERIOD_END_MINUTES: [u32; 3] = [45, 90, 120];

/// The break before each period, in minutes.
const BREAK_MINUTES: [u32; 3] = [0, 15, 5];

/// The stoppage time of each period, in minutes: the referee's clock stands still, the world's does
/// not.
struct StoppageTimes([u32; 3]);

impl StoppageTimes {
    /// The data does not say how long a period was: it ends a minute after its last goal.
    fn for_match(m: &Match) -> StoppageTimes {
        StoppageTimes(PERIOD_END_MINUTES.map(|end| {
            let late = m.goals.iter().filter(|goal| goal.match_time.minute == end);
            late.map(|goal| goal.match_time.added).max().unwrap_or(0).max(2) + 1
        }))
    }

    /// Minutes since the kick-off at which a period begins.
    fn period_start(&self, period: usize) -> u32 {
        let before: u32 = self.0[..period].iter().sum();
        let breaks: u32 = BREAK_MINUTES[..=period].iter().sum();
        let clock = if period == 0 { 0 } else { PERIOD_END_MINUTES[period - 1] };
        clock + before + breaks
    }

    /// Minutes since the kick-off at which a period ends.
    fn period_end(&self, period: usize) -> u32 {
        let clock = if period == 0 { 0 } else { PERIOD_END_MINUTES[period - 1] };
        self.period_start(period) + PERIOD_END_MINUTES[period] - clock + self.0[period]
    }

    /// Minutes since the kick-off of a moment on the clock.
    fn minute_since_kick_off(&self, moment: MatchTime) -> u32 {
        let period = PERIOD_END_MINUTES.iter().position(|&end| moment.minute <= end).unwrap_or(2);
        let clock = if period == 0 { 0 } else { PERIOD_END_MINUTES[period - 1] };
        self.period_start(period) + moment.minute - clock + moment.added
    }
}

impl MatchState {
    fn at_kick_off(m: &Match) -> MatchState {
        MatchState {
            number: m.number,
            round: m.round.clone(),
            group: m.group.clone(),
            ground: m.ground.clone(),
            kick_off: m.kick_off * 60,
            teams: m.teams.clone(),
            score: [0, 0],
            penalties: None,
            minute: String::new(),
            status: MatchStatus::Live,
            event: MatchEventKind::KickOff,
            goal: None,
            goals: vec![],
        }
    }

    fn apply(&mut self, incident: &MatchIncident<'_>) {
        self.minute = incident.match_time.to_string();
        self.event = incident.kind;
        self.goal = incident.goal.map(PublishedGoal::from_goal);
        if let Some(goal) = incident.goal {
            self.score[goal.team] += 1;
            self.goals.push(PublishedGoal::from_goal(goal));
        }
        self.status = match incident.kind {
            MatchEventKind::KickOff | MatchEventKind::SecondHalf => MatchStatus::Live,
            MatchEventKind::Clock | MatchEventKind::Goal => self.status,
            MatchEventKind::HalfTime => MatchStatus::HalfTime,
            MatchEventKind::ExtraTime => MatchStatus::ExtraTime,
            MatchEventKind::Penalties => MatchStatus::Penalties,
            MatchEventKind::FullTime => MatchStatus::Finished,
        };
    }
}

impl PublishedGoal {
    fn from_goal(goal: &Goal) -> PublishedGoal {
        PublishedGoal {
            team: goal.team,
            scorer: goal.scorer.clone(),
            minute: goal.match_time.to_string(),
            penalty: goal.penalty,
            own_goal: goal.own_goal,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn tournament() -> Tournament {
        Tournament::embedded().expect("sound")
    }

    fn by_match(events: &[MatchEvent]) -> BTreeMap<u32, Vec<&MatchEvent>> {
        let mut matches = BTreeMap::<u32, Vec<&MatchEvent>>::new();
        events.iter().for_each(|event| matches.entry(event.state.number).or_default().push(event));
        matches
    }

    #[test]
    fn last_state_of_every_match_is_its_result() {
        let (tournament, events) = (tournament(), build_events(&tournament()));
        for (m, events) in tournament.matches.iter().zip(by_match(&events).values()) {
            let last = &events[events.len() - 1].state;
            assert_eq!(last.score, m.score.final_score(), "match {}", m.number);
            assert_eq!(
                (last.status, last.event),
                (MatchStatus::Finished, MatchEventKind::FullTime)
            );
            assert_eq!(last.penalties, m.score.penalties);
            assert_eq!(last.goals.len(), m.goals.len());
        }
    }

    #[test]
    fn half_time_and_extra_time_show_the_scores_of_the_data() {
        let (tournament, events) = (tournament(), build_events(&tournament()));
        for (m, events) in tournament.matches.iter().zip(by_match(&events).values()) {
            let at = |kind| events.iter().find(|e| e.state.event == kind).map(|e| e.state.score);
            // The file has a goal of match 79 in 45+1, and not in its half-time score.
            let at_half_time = if m.number == 79 { [2, 0] } else { m.score.half_time };
            assert_eq!(at(MatchEventKind::HalfTime), Some(at_half_time), "match {}", m.number);
            if m.score.extra_time.is_some() {
                assert_eq!(
                    at(MatchEventKind::ExtraTime),
                    Some(m.score.full_time),
                    "match {}",
                    m.number
                );
            }
        }
    }

    #[test]
    fn match_starts_once_ends_once_and_its_clock_never_decreases() {
        for (number, events) in by_match(&build_events(&tournament())) {
            let count = |kind| events.iter().filter(|e| e.state.event == kind).count();
            assert_eq!(events[0].state.event, MatchEventKind::KickOff, "match {number}");
            assert_eq!(
                (count(MatchEventKind::KickOff), count(MatchEventKind::FullTime)),
                (1, 1),
                "match {number}"
            );
            let clock = |e: &&MatchEvent| e.state.minute.split('+').next().map(str::parse::<u32>);
            let clocks: Vec<_> = events.iter().map(clock).collect();
            assert!(clocks.is_sorted_by_key(|c| c.clone().and_then(Result::ok)), "match {number}");
        }
    }

    #[test]
    fn events_are_ordered_and_simultaneous_matches_interleave() {
        let events = build_events(&tournament());
        assert!(events.is_sorted_by_key(|event| event.at_minute));
        let numbers: Vec<_> = events.iter().map(|event| event.state.number).collect();
        let switches = numbers.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(switches > 500, "{switches} turns from one match to another");
    }

    #[test]
    fn every_match_has_its_own_topic_and_all_but_clock_events_go_to_the_live_topic() {
        let events = build_events(&tournament());
        let topics: BTreeSet<_> = events.iter().map(|event| event.topic.clone()).collect();
        assert_eq!(topics.len(), 104);
        for event in &events {
            assert_eq!(event.live_topic.is_none(), event.state.event == MatchEventKind::Clock);
            let messages = event.messages(1.5).expect("plain data");
            assert_eq!(messages.len(), 1 + usize::from(event.live_topic.is_some()));
            assert!(messages.iter().all(|(_, json)| json.len() < 4_096));
        }
    }

    #[test]
    fn goal_is_published_with_its_scorer_and_publish_time() {
        let events = build_events(&tournament());
        let goal =
            events.iter().find(|e| e.state.event == MatchEventKind::Goal).expect("there were some");
        let messages = goal.messages(12.5).expect("plain data");
        let json: serde_json::Value = serde_json::from_slice(&messages[0].1).expect("JSON");
        assert_eq!(json["match"], 1);
        assert_eq!(json["score"], serde_json::json!([1, 0]));
        assert_eq!(json["goal"]["scorer"], "Julián Quiñones");
        assert_eq!(json["goals"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["published_ms"], 12.5);
    }
}
