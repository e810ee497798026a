//! The events of the tournament, in order, and the messages to publish for them.

use bytes::Bytes;
use pushonce_core::Topic;
use serde::Serialize;

use crate::tournament::{Goal, Match, MatchTime, Tournament};

/// Interval at which the clock of a match is published, in minutes of play, so that a board moves without
/// goals.
const CLOCK_MINUTES: u32 = 5;

/// A change of one match.
#[derive(Clone, Debug)]
pub(crate) struct MatchEvent {
    /// Minutes since the Unix epoch, UTC.
    pub(crate) at_minute: u64,
    /// The topic of the match.
    pub(crate) topic: Topic,
    /// The topic of all events; `None` when only the clock changed.
    pub(crate) live_topic: Option<Topic>,
    /// The state of the match after the change.
    pub(crate) state: MatchState,
}

/// The published state of a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MatchState {
    /// Match number, 1 to 104.
    #[serde(rename = "match")]
    pub(crate) number: u32,
    /// `Matchday 1`, `Final`.
    pub(crate) round: String,
    /// `Group A`; absent in the knock-out rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// The venue.
    pub(crate) ground: String,
    /// Kick-off in seconds since the Unix epoch.
    pub(crate) kick_off: u64,
    /// The names of the two teams.
    pub(crate) teams: [String; 2],
    /// Goals so far, without those of the shoot-out.
    pub(crate) score: [u32; 2],
    /// The result of the shoot-out, once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) penalties: Option<[u32; 2]>,
    /// Time on the referee's clock, such as `90+4`.
    pub(crate) minute: String,
    /// The phase of the match.
    pub(crate) status: MatchStatus,
    /// What changed.
    pub(crate) event: MatchEventKind,
    /// The goal of this event, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<PublishedGoal>,
    /// All goals so far; left out on the topic of all events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) goals: Vec<PublishedGoal>,
}

/// The phase of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MatchStatus {
    /// In play.
    Live,
    /// Half-time break.
    HalfTime,
    /// Extra time of thirty minutes.
    ExtraTime,
    /// Penalty shoot-out.
    Penalties,
    /// The match is over.
    Finished,
}

/// What changed in a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MatchEventKind {
    /// The match started.
    KickOff,
    /// Only the minute changed.
    Clock,
    /// The score changed.
    Goal,
    /// The first half ended.
    HalfTime,
    /// The second half started.
    SecondHalf,
    /// Extra time started after a draw.
    ExtraTime,
    /// The shoot-out started after a draw in extra time.
    Penalties,
    /// The match ended.
    FullTime,
}

/// A goal as it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PublishedGoal {
    /// The index of the team it counts for.
    pub(crate) team: usize,
    /// The player who scored, for either team.
    pub(crate) scorer: String,
    /// Time on the referee's clock, such as `90+4`.
    pub(crate) minute: String,
    /// Whether it was a penalty kick in play.
    pub(crate) penalty: bool,
    /// Whether a player of the other team scored it.
    pub(crate) own_goal: bool,
}

/// The published message: the state with its publish time.
#[derive(Serialize)]
struct PublishedState<'s> {
    #[serde(flatten)]
    state: &'s MatchState,
    /// Publish time in milliseconds since the Unix epoch.
    published_ms: f64,
}

/// All events in the order in which they happened; events of matches that were played at the same time
/// interleave.
pub(crate) fn build_events(tournament: &Tournament) -> Vec<MatchEvent> {
    let of_match = |m: &Match| events_of_match(m, &tournament.live);
    let mut events: Vec<MatchEvent> = tournament.matches.iter().flat_map(of_match).collect();
    // A stable sort: events of one match in the same minute keep their order.
    events.sort_by_key(|event| event.at_minute);
    events
}

impl MatchEvent {
    /// The message on the topic of the match, as JSON. `published_ms` is the current time in milliseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// Cannot fail for the data that the binary contains.
    pub(crate) fn match_message(&self, published_ms: f64) -> Result<Bytes, serde_json::Error> {
        encode(&self.state, published_ms)
    }

    /// The message on the topic of all events, as JSON, without the list of goals.
    ///
    /// # Errors
    /// Cannot fail for the data that the binary contains.
    pub(crate) fn live_message(&self, published_ms: f64) -> Result<Bytes, serde_json::Error> {
        encode(&MatchState { goals: vec![], ..self.state.clone() }, published_ms)
    }
}

fn encode(state: &MatchState, published_ms: f64) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(&PublishedState { state, published_ms }).map(Bytes::from)
}

/// An incident: its time in minutes since the kick-off, its kind, and the clock at that time.
struct MatchIncident<'m> {
    at_minute: u32,
    kind: MatchEventKind,
    match_time: MatchTime,
    goal: Option<&'m Goal>,
}

/// The events of one match from kick-off to the end.
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

/// Approximate duration of a shoot-out.
const SHOOT_OUT_MINUTES: u32 = 10;

/// The minute on the clock in which each period ends.
const PERIOD_END_MINUTES: [u32; 3] = [45, 90, 120];

/// The break before each period, in minutes.
const BREAK_MINUTES: [u32; 3] = [0, 15, 5];

/// The stoppage time of each period, in minutes, during which the clock of the match stands still.
struct StoppageTimes([u32; 3]);

impl StoppageTimes {
    /// The data does not contain the length of a period: each ends one minute after its last goal.
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

    /// Minutes since the kick-off for a time on the clock.
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
        assert!(switches > 500, "{switches} switches between matches");
    }

    #[test]
    fn every_match_has_its_own_topic_and_all_but_clock_events_go_to_the_live_topic() {
        let events = build_events(&tournament());
        let topics: BTreeSet<_> = events.iter().map(|event| event.topic.clone()).collect();
        assert_eq!(topics.len(), 104);
        for event in &events {
            assert_eq!(event.live_topic.is_none(), event.state.event == MatchEventKind::Clock);
            let messages = [event.match_message(1.5), event.live_message(1.5)];
            assert!(messages.into_iter().all(|json| json.expect("plain data").len() < 4_096));
        }
    }

    #[test]
    fn goal_is_published_with_its_scorer_and_publish_time() {
        let events = build_events(&tournament());
        let goal = events.iter().find(|e| e.state.event == MatchEventKind::Goal).expect("a goal");
        let message = goal.match_message(12.5).expect("plain data");
        let json: serde_json::Value = serde_json::from_slice(&message).expect("JSON");
        assert_eq!(json["match"], 1);
        assert_eq!(json["score"], serde_json::json!([1, 0]));
        assert_eq!(json["goal"]["scorer"], "Julián Quiñones");
        assert_eq!(json["goals"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["published_ms"], 12.5);
    }
}
