//! What the events of a session mean to the subscriber: pure, so that every case can be tested.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{From, Message, Options, Publish, Topic};
use pushonce_proto::client::{self, Difference};

use crate::cursor::{Cursor, Seen};
use crate::delta::{self, InvalidDelta};
use crate::session::Ended;
use crate::subscriber::Event;

/// Every topic and how far it got, over all sessions, and what this session was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    topics: BTreeMap<Topic, Followed>,
    /// The last message that this session brought of each topic that comes in deltas.
    bases: HashMap<Topic, Arc<Message>>,
    /// Requests of this session without an answer yet, by id.
    asked: HashMap<u64, Topic>,
    /// The last id of this session.
    last_id: u64,
    /// Topics that this session brings.
    live: BTreeSet<Topic>,
    /// Topics that this server cannot bring now.
    waiting: BTreeSet<Topic>,
    /// Topics of which this server does not hear.
    stale: BTreeSet<Topic>,
}

/// A topic that is subscribed to.
#[derive(Clone, Debug)]
struct Followed {
    cursor: Cursor,
    options: Options,
}

/// What to do about an event.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing: it is old, or none of ours.
    Pass,
    /// Tell the caller.
    Tell(Event),
    /// After a pause, ask for what [`Progress::again`] says.
    Wait {
        /// Why.
        message: String,
    },
    /// Leave this session at a random moment within this time.
    Leave {
        /// The time.
        within: Duration,
        /// How long it is not to be troubled.
        back: Duration,
        /// Why the server wants it.
        reason: String,
    },
    /// Leave this session now.
    End(Ended),
}

/// A subscription to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) id: u64,
    pub(crate) topic: Topic,
    pub(crate) from: From,
    pub(crate) options: Options,
}

/// A caller that wants the newest message of a topic only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewestOnly {
    /// What is passed over is told.
    pub(crate) tells_gaps: bool,
}

/// Why a difference could not be made a message: the server's mistake.
#[derive(Debug, thiserror::Error)]
enum NoMessage {
    #[error("a delta came without the message before it")]
    NoBase,
    #[error(transparent)]
    Invalid(#[from] InvalidDelta),
}

impl Progress {
    pub(crate) fn add(&mut self, topic: Topic, from: From, options: Options) {
        self.topics.insert(topic, Followed { cursor: Cursor::new(from), options });
    }

    /// A session begins: what to ask it for.
    pub(crate) fn begin(&mut self) -> Vec<Ask> {
        self.asked.clear();
        self.bases.clear();
        self.live.clear();
        self.stale.clear();
        self.last_id = 0;
        self.waiting = self.topics.keys().cloned().collect();
        self.again()
    }

    /// What to ask for that this session could not bring so far.
    pub(crate) fn again(&mut self) -> Vec<Ask> {
        let waiting = std::mem::take(&mut self.waiting);
        let asks = waiting.into_iter().filter_map(|topic| {
            let Followed { cursor, options } = self.topics.get(&topic)?;
            let (from, options) = (cursor.from(), *options);
            self.last_id += 1;
            self.asked.insert(self.last_id, topic.clone());
            Some(Ask { id: self.last_id, topic, from, options })
        });
        asks.collect()
    }

    /// This session brings every topic.
    pub(crate) fn is_settled(&self) -> bool {
        self.asked.is_empty() && self.waiting.is_empty()
    }

    /// This server does not hear of some topic.
    pub(crate) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Every topic was refused.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// What the caller wants of a topic: `None` for every message.
    pub(crate) fn newest_only(&self, topic: &Topic) -> Option<NewestOnly> {
        let Followed { cursor, options } = self.topics.get(topic)?;
        cursor.is_newest_only().then_some(NewestOnly { tells_gaps: options.conflated })
    }

    pub(crate) fn step(&mut self, event: client::Event) -> Step {
        match event {
            client::Event::Subscribed { topic, position, recovered, delivery, .. } => {
                self.asked.retain(|_, asked| *asked != topic);
                let Some(followed) = self.topics.get_mut(&topic) else { return Step::Pass };
                followed.cursor.subscribed(position, delivery);
                self.live.insert(topic.clone());
                Step::Tell(Event::Subscribed { topic, position, recovered, delivery })
            }
            client::Event::Message { topic, message } => self.message(topic, message),
            client::Event::Difference { topic, .. } if !self.topics.contains_key(&topic) => {
                Step::Pass
            }
            client::Event::Difference { topic, difference } => {
                match self.undo(&topic, difference) {
                    Ok(message) => self.message(topic, Arc::new(message)),
                    // Asked for again, it comes whole.
                    Err(why) => Step::End(Ended::again(format!("{topic}: {why}"))),
                }
            }
            client::Event::Gap { topic, gap } => {
                let followed = self.topics.get_mut(&topic);
                let news = followed.is_some_and(|followed| followed.cursor.skip(&gap));
                if news { Step::Tell(Event::Gap { topic, gap }) } else { Step::Pass }
            }
            client::Event::Stale { topic, since } => {
                let news = self.topics.contains_key(&topic) && self.stale.insert(topic.clone());
                if news { Step::Tell(Event::Stale { topic, since }) } else { Step::Pass }
            }
            client::Event::Live { topic, position } => match self.stale.remove(&topic) {
                true => Step::Tell(Event::Live { topic, position }),
                false => Step::Pass,
            },
            client::Event::Audience { topic, count } => match self.topics.contains_key(&topic) {
                true => Step::Tell(Event::Audience { topic, count }),
                false => Step::Pass,
            },
            client::Event::Error { id, code, message, retry } => {
                let topic = id.and_then(|id| self.asked.remove(&id));
                match topic {
                    Some(topic) if retry => self.cannot_now(topic, message),
                    Some(topic) => {
                        self.topics.remove(&topic);
                        let message = format!("{topic}: {message}");
                        Step::Tell(Event::Refused { code, message })
                    }
                    None => Step::Tell(Event::Refused { code, message }),
                }
            }
            client::Event::Goaway { after_ms, back_ms, reason } => Step::Leave {
                within: Duration::from_millis(after_ms.into()),
                back: Duration::from_millis(back_ms.into()),
                reason,
            },
            client::Event::Unsubscribed { .. }
            | client::Event::Published { .. }
            | client::Event::Authenticated { .. }
            | client::Event::Heartbeat { .. }
            | client::Event::Stream { .. } => Step::Pass,
        }
    }

    fn message(&mut self, topic: Topic, message: Arc<Message>) -> Step {
        let Some(followed) = self.topics.get_mut(&topic) else { return Step::Pass };
        if followed.options.delta {
            self.bases.insert(topic.clone(), message.clone());
        }
        match followed.cursor.see(message.position) {
            Seen::New => Step::Tell(Event::Message { topic, message }),
            Seen::Old => Step::Pass,
            // Asked for again, it comes whole or with a gap that says what is missing.
            Seen::Hole { reached } => Step::End(Ended::again(format!(
                "{topic}: {} came after {reached} without a gap",
                message.position
            ))),
        }
    }

    /// Makes a difference the message that it stands for.
    fn undo(&self, topic: &Topic, difference: Difference) -> Result<Message, NoMessage> {
        let Difference { position, time, key, delta } = difference;
        let base = self.bases.get(topic).filter(|base| base.position.next() == position);
        let base = base.ok_or(NoMessage::NoBase)?;
        let payload = delta::apply(&base.payload, &delta, Publish::PAYLOAD_BYTES_CAP)?;
        let content_type = base.content_type.clone();
        Ok(Message { position, time, content_type, key, payload: payload.into() })
    }

    /// One topic without an owner must not take the others with it; a server that brings none is
    /// left for one that may.
    fn cannot_now(&mut self, topic: Topic, message: String) -> Step {
        let message = format!("{topic}: {message}");
        self.waiting.insert(topic);
        if self.live.is_empty() && self.asked.is_empty() {
            Step::End(Ended::again(message))
        } else {
            Step::Wait { message }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pushonce_core::{ContentType, Delivery, Message, Position, Timestamp};
    use pushonce_proto::client::ErrorCode;

    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).expect("valid")
    }

    const ASKING: Options = Options {
        delivery: None,
        conflated: false,
        audience: true,
        delta: false,
        datagrams: false,
    };

    fn progress() -> Progress {
        let mut progress = Progress::default();
        progress.add(topic("a"), From::Start, ASKING);
        progress.add(topic("b"), From::Last(2), ASKING);
        progress
    }

    fn message(name: &str, offset: u64) -> client::Event {
        let message = Message {
            position: Position::new(7, offset),
            time: Timestamp(0),
            content_type: ContentType::Text,
            key: None,
            payload: Bytes::new(),
        };
        client::Event::Message { topic: topic(name), message: Arc::new(message) }
    }

    fn subscribed(id: u64, name: &str) -> client::Event {
        let (topic, position) = (topic(name), Position::new(7, 0));
        let (id, delivery) = (Some(id), Delivery::All);
        client::Event::Subscribed { id, topic, position, recovered: true, delivery }
    }

    #[test]
    fn each_session_asks_for_what_the_last_one_did_not_show() {
        let mut progress = progress();
        let ask = |id, name, from| Ask { id, topic: topic(name), from, options: ASKING };
        assert_eq!(progress.begin(), [ask(1, "a", From::Start), ask(2, "b", From::Last(2))]);
        assert!(matches!(progress.step(message("b", 4)), Step::Tell(Event::Message { .. })));
        assert!(matches!(progress.step(message("b", 4)), Step::Pass));
        assert_eq!(
            progress.begin(),
            [ask(1, "a", From::Start), ask(2, "b", From::Position(Position::new(7, 4)))]
        );
    }

    #[test]
    fn a_session_is_settled_when_every_topic_has_its_answer() {
        let mut progress = progress();
        progress.begin();
        progress.step(subscribed(1, "a"));
        assert!(!progress.is_settled());
        progress.step(client::Event::error(Some(2), ErrorCode::NotAllowed, "no"));
        assert!(progress.is_settled());
    }

    #[test]
    fn a_refused_topic_is_named_and_not_asked_for_again() {
        let mut progress = progress();
        progress.begin();
        let step = progress.step(client::Event::error(Some(2), ErrorCode::FuturePosition, "no"));
        let Step::Tell(Event::Refused { code, message }) = step else { panic!("{step:?}") };
        assert_eq!((code, message.as_str()), (ErrorCode::FuturePosition, "b: no"));
        assert_eq!(progress.begin().len(), 1);
        progress.step(client::Event::error(Some(1), ErrorCode::NotAllowed, "no"));
        assert!(progress.is_empty());
    }

    fn unavailable(id: u64) -> client::Event {
        client::Event::error(Some(id), ErrorCode::Unavailable, "no owner")
    }

    #[test]
    fn a_server_that_brings_nothing_is_left() {
        let mut progress = progress();
        progress.begin();
        assert!(matches!(progress.step(unavailable(1)), Step::Wait { .. }), "b may yet come");
        assert!(matches!(progress.step(unavailable(2)), Step::End(_)));
        assert_eq!(progress.begin().len(), 2);
    }

    #[test]
    fn a_topic_that_cannot_be_had_now_is_asked_for_again_beside_the_others() {
        let mut progress = progress();
        progress.begin();
        progress.step(subscribed(1, "a"));
        assert!(matches!(progress.step(unavailable(2)), Step::Wait { .. }));
        assert!(!progress.is_settled());
        let again = progress.again();
        let (topic_b, from) = (topic("b"), From::Last(2));
        assert_eq!(again, [Ask { id: 3, topic: topic_b, from, options: ASKING }]);
        progress.step(subscribed(3, "b"));
        assert!(progress.is_settled());
    }

    #[test]
    fn a_hole_ends_the_session_and_shows_nothing() {
        let mut progress = progress();
        progress.begin();
        progress.step(message("a", 1));
        assert!(matches!(progress.step(message("a", 3)), Step::End(_)));
    }

    #[test]
    fn a_session_is_stale_until_every_topic_is_live_again_or_it_ends() {
        let at = Position::new(7, 1);
        let stale = |name| client::Event::Stale { topic: topic(name), since: at };
        let live = |name| client::Event::Live { topic: topic(name), position: at };
        let mut progress = progress();
        progress.begin();
        assert!(matches!(progress.step(stale("a")), Step::Tell(Event::Stale { .. })));
        assert!(matches!(progress.step(stale("c")), Step::Pass), "none of ours");
        progress.step(stale("b"));
        assert!(matches!(progress.step(live("a")), Step::Tell(Event::Live { .. })));
        assert!(progress.is_stale());
        progress.step(live("b"));
        assert!(!progress.is_stale());
        progress.step(stale("b"));
        progress.begin();
        assert!(!progress.is_stale(), "another server may hear of it");
    }

    fn whole(name: &str, offset: u64, payload: &[u8]) -> client::Event {
        let client::Event::Message { topic, message } = message(name, offset) else { panic!() };
        let payload = Bytes::copy_from_slice(payload);
        let message = Arc::new(Message { payload, ..Arc::unwrap_or_clone(message) });
        client::Event::Message { topic, message }
    }

    fn changed(name: &str, offset: u64, old: &[u8], new: &[u8]) -> client::Event {
        let (position, delta) = (Position::new(7, offset), fossil_delta::delta(new, old).into());
        let difference = Difference { position, time: Timestamp(0), key: None, delta };
        client::Event::Difference { topic: topic(name), difference }
    }

    fn progress_with_deltas() -> Progress {
        let (mut progress, delta) =
            (Progress::default(), Options { delta: true, ..Options::default() });
        progress.add(topic("a"), From::Start, delta);
        progress.add(topic("b"), From::Last(2), delta);
        assert!(progress.begin().iter().all(|ask| ask.options.delta));
        progress
    }

    fn shown(step: Step) -> Bytes {
        let Step::Tell(Event::Message { message, .. }) = step else { panic!("{step:?}") };
        assert_eq!(message.content_type, ContentType::Text);
        message.payload.clone()
    }

    const ONE: &[u8] = b"Germany against Brazil: 1 to 0";
    const TWO: &[u8] = b"Germany against Brazil: 2 to 0";
    const THREE: &[u8] = b"Germany against Brazil: 2 to 1";

    #[test]
    fn differences_become_messages_one_upon_the_other() {
        let mut progress = progress_with_deltas();
        assert_eq!(shown(progress.step(whole("a", 1, ONE))), ONE);
        assert_eq!(shown(progress.step(whole("b", 1, b"another topic"))), "another topic");
        assert_eq!(shown(progress.step(changed("a", 2, ONE, TWO))), TWO);
        assert_eq!(shown(progress.step(changed("a", 3, TWO, THREE))), THREE);
        assert!(matches!(progress.step(changed("c", 1, ONE, TWO)), Step::Pass), "none of ours");
    }

    #[test]
    fn a_message_that_was_seen_before_is_a_base_all_the_same() {
        let mut progress = progress_with_deltas();
        progress.step(whole("a", 4, ONE));
        progress.begin();
        assert!(matches!(progress.step(whole("a", 4, ONE)), Step::Pass));
        assert_eq!(shown(progress.step(changed("a", 5, ONE, TWO))), TWO);
    }

    #[test]
    fn a_delta_without_its_base_ends_the_session_and_shows_nothing() {
        let mut progress = progress_with_deltas();
        assert!(matches!(progress.step(changed("a", 1, ONE, TWO)), Step::End(_)), "the first");
        progress.step(whole("a", 1, ONE));
        assert!(matches!(progress.step(changed("a", 3, ONE, TWO)), Step::End(_)), "not the next");
        progress.begin();
        assert!(
            matches!(progress.step(changed("a", 2, ONE, TWO)), Step::End(_)),
            "another session"
        );
        let from = progress.begin()[0].from;
        assert_eq!(from, From::Position(Position::new(7, 1)), "it comes again");
    }

    #[test]
    fn a_delta_of_another_base_ends_the_session_and_shows_nothing() {
        let mut progress = progress_with_deltas();
        progress.step(whole("a", 1, ONE));
        let other = [ONE, b"?"].concat();
        let step = progress.step(changed("a", 2, &other, &[&other[..], b"!"].concat()));
        assert!(matches!(step, Step::End(_)), "{step:?}");
    }

    #[test]
    fn what_is_none_of_ours_is_passed_over() {
        let mut progress = progress();
        progress.begin();
        assert!(matches!(progress.step(message("c", 1)), Step::Pass));
        let audience = |name| client::Event::Audience { topic: topic(name), count: 7 };
        assert!(matches!(progress.step(audience("c")), Step::Pass));
        let told = progress.step(audience("a"));
        assert!(matches!(told, Step::Tell(Event::Audience { count: 7, .. })));
        assert!(matches!(progress.step(subscribed(9, "c")), Step::Pass));
        let heartbeat = client::Event::Heartbeat { positions: vec![] };
        assert!(matches!(progress.step(heartbeat), Step::Pass));
    }
}
