//! What happens in the tournament, in order, and what is published of it.

use bytes::Bytes;
use pushonce_core::Topic;
use serde::Serialize;

use super::{Goal, Match, Moment, Tournament};

/// The clock of a match is published this often, in minutes of play, so that a board moves without
/// goals.
const CLOCK_MINUTES: u32 = 5;

/// One change of one match.
#[derive(Clone, Debug)]
pub struct Event {
    /// Minutes since the Unix epoch, UTC.
    pub at: u64,
    /// The match's own topic.
    pub topic: Topic,
    /// Where it is told to those who follow everything; none when only the clock moved.
    pub live: Option<Topic>,
    /// The match after the change.
    pub state: State,
}

/// A match at one moment, as it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// 1 to 104.
    #[serde(rename = "match")]
    pub number: u32,
    /// `Matchday 1`, `Final`.
    pub round: String,
    /// `Group A`; absent in the knock-out rounds.
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
    pub status: Status,
    /// What changed.
    pub event: Kind,
    /// The goal that fell, when one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Scored>,
    /// All goals so far; left out where the event is told to everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub goals: Vec<Scored>,
}

/// Where a match stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
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
pub enum Kind {
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
pub struct Scored {
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
struct Published<'s> {
    #[serde(flatten)]
    state: &'s State,
    /// Milliseconds since the Unix epoch.
    published_ms: f64,
}

/// Everything that happens, in the order in which it happened; matches that were played at the same
/// time interleave.
pub fn script(tournament: &Tournament) -> Vec<Event> {
    let of_match = |m: &Match| play(m, &tournament.live);
    let mut events: Vec<Event> = tournament.matches.iter().flat_map(of_match).collect();
    // Stable: what a match has in one minute keeps its order.
    events.sort_by_key(|event| event.at);
    events
}

impl Event {
    /// What to publish, as JSON: the state on the match's own topic, and the event for those who
    /// follow everything. `published_ms` is now, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// None for the data that the binary carries.
    pub fn messages(&self, published_ms: f64) -> Result<Vec<(Topic, Bytes)>, serde_json::Error> {
        let encode =
            |state: &State| serde_json::to_vec(&Published { state, published_ms }).map(Bytes::from);
        let mut messages = vec![(self.topic.clone(), encode(&self.state)?)];
        if let Some(live) = &self.live {
            let brief = State { goals: vec![], ..self.state.clone() };
            messages.push((live.clone(), encode(&brief)?));
        }
        Ok(messages)
    }
}

/// When a happening falls, in minutes since the kick-off, what it is, and what the clock shows.
struct Happening<'m> {
    at: u32,
    kind: Kind,
    moment: Moment,
    goal: Option<&'m Goal>,
}

/// One match from kick-off to the end.
fn play(m: &Match, live: &Topic) -> Vec<Event> {
    let mut state = State::before(m);
    let mut events = Vec::new();
    for happening in happenings(m) {
        state.take(&happening);
        if happening.kind == Kind::FullTime {
            state.penalties = m.score.penalties;
        }
        events.push(Event {
            at: m.kick_off + u64::from(happening.at),
            topic: m.topic.clone(),
            live: (happening.kind != Kind::Clock).then(|| live.clone()),
            state: state.clone(),
        });
    }
    events
}

fn happenings<'m>(m: &'m Match) -> Vec<Happening<'m>> {
    let periods = Periods::of(m);
    let plain =
        |at, kind, minute| Happening { at, kind, moment: Moment { minute, added: 0 }, goal: None };
    let goal = |goal: &'m Goal| Happening {
        at: periods.at(goal.moment),
        kind: Kind::Goal,
        moment: goal.moment,
        goal: Some(goal),
    };
    let mut happenings = vec![
        plain(0, Kind::KickOff, 0),
        plain(periods.end(0), Kind::HalfTime, 45),
        plain(periods.start(1), Kind::SecondHalf, 45),
    ];
    happenings.extend(m.goals.iter().map(goal));
    let minutes = if m.score.extra_time.is_some() { 120 } else { 90 };
    let ticks = (CLOCK_MINUTES..minutes).step_by(CLOCK_MINUTES as usize).filter(|m| m % 45 != 0);
    happenings.extend(
        ticks.map(|minute| plain(periods.at(Moment { minute, added: 0 }), Kind::Clock, minute)),
    );
    if m.score.extra_time.is_some() {
        happenings.push(plain(periods.start(2), Kind::ExtraTime, 90));
    }
    let end = periods.end(if m.score.extra_time.is_some() { 2 } else { 1 });
    if m.score.penalties.is_some() {
        happenings.push(plain(end, Kind::Penalties, 120));
        happenings.push(plain(end + SHOOT_OUT_MINUTES, Kind::FullTime, 120));
    } else {
        happenings.push(plain(end, Kind::FullTime, minutes));
    }
    happenings.sort_by_key(|happening| happening.at);
    happenings
}

/// About what one takes.
const SHOOT_OUT_MINUTES: u32 = 10;

/// The clock's minute in which each period ends.
const ENDS: [u32; 3] = [45, 90, 120];

/// The break before each period, in minutes.
const BREAKS: [u32; 3] = [0, 15, 5];

/// The stoppage time of each period, in minutes: the referee's clock stands still, the world's does
/// not.
struct Periods([u32; 3]);

impl Periods {
    /// The data does not say how long a period was: it ends a minute after its last goal.
    fn of(m: &Match) -> Periods {
        Periods(ENDS.map(|end| {
            let late = m.goals.iter().filter(|goal| goal.moment.minute == end);
            late.map(|goal| goal.moment.added).max().unwrap_or(0).max(2) + 1
        }))
    }

    /// Minutes since the kick-off at which a period begins.
    fn start(&self, period: usize) -> u32 {
        let before: u32 = self.0[..period].iter().sum();
        let breaks: u32 = BREAKS[..=period].iter().sum();
        let clock = if period == 0 { 0 } else { ENDS[period - 1] };
        clock + before + breaks
    }

    /// Minutes since the kick-off at which a period ends.
    fn end(&self, period: usize) -> u32 {
        let clock = if period == 0 { 0 } else { ENDS[period - 1] };
        self.start(period) + ENDS[period] - clock + self.0[period]
    }

    /// Minutes since the kick-off of a moment on the clock.
    fn at(&self, moment: Moment) -> u32 {
        let period = ENDS.iter().position(|&end| moment.minute <= end).unwrap_or(2);
        let clock = if period == 0 { 0 } else { ENDS[period - 1] };
        self.start(period) + moment.minute - clock + moment.added
    }
}

impl State {
    fn before(m: &Match) -> State {
        State {
            number: m.number,
            round: m.round.clone(),
            group: m.group.clone(),
            ground: m.ground.clone(),
            kick_off: m.kick_off * 60,
            teams: m.teams.clone(),
            score: [0, 0],
            penalties: None,
            minute: String::new(),
            status: Status::Live,
            event: Kind::KickOff,
            goal: None,
            goals: vec![],
        }
    }

    fn take(&mut self, happening: &Happening<'_>) {
        self.minute = happening.moment.to_string();
        self.event = happening.kind;
        self.goal = happening.goal.map(Scored::of);
        if let Some(goal) = happening.goal {
            self.score[goal.team] += 1;
            self.goals.push(Scored::of(goal));
        }
        self.status = match happening.kind {
            Kind::KickOff | Kind::SecondHalf => Status::Live,
            Kind::Clock | Kind::Goal => self.status,
            Kind::HalfTime => Status::HalfTime,
            Kind::ExtraTime => Status::ExtraTime,
            Kind::Penalties => Status::Penalties,
            Kind::FullTime => Status::Finished,
        };
    }
}

impl Scored {
    fn of(goal: &Goal) -> Scored {
        Scored {
            team: goal.team,
            scorer: goal.scorer.clone(),
            minute: goal.moment.to_string(),
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

    fn by_match(events: &[Event]) -> BTreeMap<u32, Vec<&Event>> {
        let mut matches = BTreeMap::<u32, Vec<&Event>>::new();
        events.iter().for_each(|event| matches.entry(event.state.number).or_default().push(event));
        matches
    }

    #[test]
    fn the_last_state_of_every_match_is_its_result() {
        let (tournament, events) = (tournament(), script(&tournament()));
        for (m, events) in tournament.matches.iter().zip(by_match(&events).values()) {
            let last = &events[events.len() - 1].state;
            assert_eq!(last.score, m.score.at_the_end(), "match {}", m.number);
            assert_eq!((last.status, last.event), (Status::Finished, Kind::FullTime));
            assert_eq!(last.penalties, m.score.penalties);
            assert_eq!(last.goals.len(), m.goals.len());
        }
    }

    #[test]
    fn half_time_and_full_time_show_the_scores_of_the_data() {
        let (tournament, events) = (tournament(), script(&tournament()));
        for (m, events) in tournament.matches.iter().zip(by_match(&events).values()) {
            let at = |kind| events.iter().find(|e| e.state.event == kind).map(|e| e.state.score);
            // The file has a goal of match 79 in 45+1, and not in its half-time score.
            let at_half_time = if m.number == 79 { [2, 0] } else { m.score.half_time };
            assert_eq!(at(Kind::HalfTime), Some(at_half_time), "match {}", m.number);
            if m.score.extra_time.is_some() {
                assert_eq!(at(Kind::ExtraTime), Some(m.score.full_time), "match {}", m.number);
            }
        }
    }

    #[test]
    fn a_match_begins_once_ends_once_and_its_clock_never_goes_back() {
        for (number, events) in by_match(&script(&tournament())) {
            let count = |kind| events.iter().filter(|e| e.state.event == kind).count();
            assert_eq!(events[0].state.event, Kind::KickOff, "match {number}");
            assert_eq!((count(Kind::KickOff), count(Kind::FullTime)), (1, 1), "match {number}");
            let clock = |e: &&Event| e.state.minute.split('+').next().map(str::parse::<u32>);
            let clocks: Vec<_> = events.iter().map(clock).collect();
            assert!(clocks.is_sorted_by_key(|c| c.clone().and_then(Result::ok)), "match {number}");
        }
    }

    #[test]
    fn events_are_in_order_and_simultaneous_matches_interleave() {
        let events = script(&tournament());
        assert!(events.is_sorted_by_key(|event| event.at));
        let numbers: Vec<_> = events.iter().map(|event| event.state.number).collect();
        let turns = numbers.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(turns > 500, "{turns} turns from one match to another");
    }

    #[test]
    fn every_match_has_a_topic_of_its_own_and_all_but_the_clock_is_told_live() {
        let events = script(&tournament());
        let topics: BTreeSet<_> = events.iter().map(|event| event.topic.clone()).collect();
        assert_eq!(topics.len(), 104);
        for event in &events {
            assert_eq!(event.live.is_none(), event.state.event == Kind::Clock);
            let messages = event.messages(1.5).expect("plain data");
            assert_eq!(messages.len(), 1 + usize::from(event.live.is_some()));
            assert!(messages.iter().all(|(_, json)| json.len() < 4_096));
        }
    }

    #[test]
    fn a_goal_is_published_with_its_scorer_and_the_time_of_publishing() {
        let events = script(&tournament());
        let goal = events.iter().find(|e| e.state.event == Kind::Goal).expect("there were some");
        let messages = goal.messages(12.5).expect("plain data");
        let json: serde_json::Value = serde_json::from_slice(&messages[0].1).expect("JSON");
        assert_eq!(json["match"], 1);
        assert_eq!(json["score"], serde_json::json!([1, 0]));
        assert_eq!(json["goal"]["scorer"], "Julián Quiñones");
        assert_eq!(json["goals"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["published_ms"], 12.5);
    }
}
