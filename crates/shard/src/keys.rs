//! The names of messages: keys and nonces, for a window.

use std::collections::{HashMap, VecDeque};

use pushonce_core::{Key, Placed, Stamp, Topic};
use serde::{Deserialize, Serialize};

use crate::Item;
use crate::dedupe::{Fingerprint, Rejected};
use crate::passing::Moment;
use crate::rules::Rules;

/// A shard remembers so many names: for a cluster of 16 shards, 3,500 named publishes a second over
/// the whole window; at 50,000 a second still the last 20 seconds, more than any client retries by
/// itself. Half would halve that, twice as many would take 32 MiB a shard.
pub(crate) const COUNT_MAX: usize = 65_536;

/// And so many bytes, so that names as long as they may be do not take three times as much. Names
/// and topics of 96 bytes together reach both bounds at once.
pub(crate) const BYTES_MAX: usize = 16 << 20;

/// What a name takes beside its letters: twice itself, its place, its fingerprint, its moment.
pub(crate) const OVERHEAD_BYTES: usize = 160;

/// What a message is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Name {
    /// By its publisher.
    Key(Key),
    /// By chance.
    Nonce(u128),
}

/// The names of a shard, oldest out first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// Oldest first.
    known: VecDeque<Known>,
    /// The number of the first.
    first: u64,
    /// The numbers of all.
    #[serde(skip)]
    numbers: HashMap<Named, u64>,
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    rules: &'static Rules,
}

/// One name stands for one message in each topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Named {
    topic: Topic,
    name: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    named: Named,
    fingerprint: Fingerprint,
    placed: Placed,
    at: Moment,
}

impl Name {
    /// The key, if it has one: its publisher may know it where the nonce is lost.
    pub(crate) fn of(item: &Item) -> Option<Name> {
        match (&item.key, item.stamp) {
            (Some(key), _) => Some(Name::Key(key.clone())),
            (None, Some(Stamp::Nonce(nonce))) => Some(Name::Nonce(nonce)),
            (None, _) => None,
        }
    }
}

impl Keys {
    /// These are the bounds from now on. What is over them goes with the next name.
    pub(crate) fn keep_to(&mut self, rules: &'static Rules) {
        self.rules = rules;
        self.bytes = self.known.iter().map(|known| known.named.bytes(rules)).sum();
    }

    /// What a message of this name is answered with; `None` when it is new.
    pub(crate) fn look(
        &self,
        topic: &Topic,
        name: &Name,
        fingerprint: Fingerprint,
    ) -> Option<Result<Placed, Rejected>> {
        let named = Named { topic: topic.clone(), name: name.clone() };
        let number = self.numbers.get(&named)?;
        let known = self.known.get(number.checked_sub(self.first)? as usize)?;
        let same = known.fingerprint == fingerprint;
        Some(if same { Ok(known.placed) } else { Err(Rejected::KeyReused) })
    }

    /// A new message of this name has its place.
    pub(crate) fn remember(
        &mut self,
        topic: Topic,
        name: Name,
        fingerprint: Fingerprint,
        placed: Placed,
        now: Moment,
    ) {
        let named = Named { topic, name };
        self.numbers.insert(named.clone(), self.first + self.known.len() as u64);
        self.bytes += named.bytes(self.rules);
        self.known.push_back(Known { named, fingerprint, placed, at: now });
        while self.known.len() > self.rules.names_max || self.bytes > self.rules.name_bytes_max {
            self.pop();
        }
    }

    /// Forgets what is older than the window.
    pub(crate) fn forget(&mut self, now: Moment) {
        while self.known.front().is_some_and(|oldest| oldest.at.is_past(now, self.rules.window_ms))
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.known.pop_front() {
            self.first += 1;
            self.bytes -= oldest.named.bytes(self.rules);
            self.numbers.remove(&oldest.named);
        }
    }

    /// With what is not written; `None` when a name is there twice.
    pub(crate) fn restored(self) -> Option<Keys> {
        let Keys { known, first, rules, .. } = self;
        first.checked_add(u64::MAX / 2)?;
        let numbers: HashMap<_, _> =
            known.iter().map(|known| known.named.clone()).zip(first..).collect();
        let bytes = known.iter().map(|known| known.named.bytes(rules)).sum();
        (numbers.len() == known.len()).then_some(Keys { known, first, numbers, bytes, rules })
    }
}

impl Named {
    fn bytes(&self, rules: &Rules) -> usize {
        let name = match &self.name {
            Name::Key(key) => key.as_str().len(),
            Name::Nonce(_) => 0,
        };
        self.topic.as_str().len() + name + rules.name_overhead_bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pushonce_core::{ContentType, Position, Timestamp};

    use super::*;
    use crate::passing::{Passing, WINDOW_MS};

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn key(text: &str) -> Name {
        Name::Key(Key::new(text).unwrap())
    }

    fn fingerprint(payload: &'static [u8]) -> Fingerprint {
        of(ContentType::Text, payload)
    }

    fn of(content_type: ContentType, payload: &'static [u8]) -> Fingerprint {
        let (key, stamp) = (None, None);
        let payload = Bytes::from_static(payload);
        Fingerprint::of(&Item { topic: topic("a"), content_type, key, stamp, payload })
    }

    fn placed(offset: u64) -> Placed {
        Placed {
            position: Position::new(1, offset),
            time: Timestamp(5),
            durability: Default::default(),
        }
    }

    fn moment(time: u64) -> Moment {
        let mut passing = Passing::default();
        (0..=time).step_by(1_000).map(|time| passing.at(Timestamp(time))).last().unwrap()
    }

    #[test]
    fn a_repeated_key_gets_the_first_position_and_another_payload_is_refused() {
        let mut keys = Keys::default();
        let (a, k, goal) = (topic("a"), key("k"), fingerprint(b"goal"));
        assert_eq!(keys.look(&a, &k, goal), None);
        keys.remember(a.clone(), k.clone(), goal, placed(1), moment(0));
        assert_eq!(keys.look(&a, &k, goal), Some(Ok(placed(1))));
        assert_eq!(keys.look(&a, &k, fingerprint(b"foul")), Some(Err(Rejected::KeyReused)));
        let other_type = of(ContentType::Binary, b"goal");
        assert_eq!(keys.look(&a, &k, other_type), Some(Err(Rejected::KeyReused)));
    }

    #[test]
    fn a_name_belongs_to_its_topic_and_a_key_is_no_nonce() {
        let mut keys = Keys::default();
        let goal = fingerprint(b"goal");
        keys.remember(topic("a"), key("b/k"), goal, placed(1), moment(0));
        assert_eq!(keys.look(&topic("a/b"), &key("k"), goal), None);
        assert_eq!(keys.look(&topic("b"), &key("b/k"), goal), None);
        assert_eq!(keys.look(&topic("a"), &Name::Nonce(7), goal), None);
    }

    #[test]
    fn a_key_is_known_for_the_window_and_new_after_it() {
        let mut keys = Keys::default();
        let goal = fingerprint(b"goal");
        keys.remember(topic("a"), key("k"), goal, placed(1), moment(0));
        keys.forget(moment(WINDOW_MS));
        assert_eq!(keys.look(&topic("a"), &key("k"), goal), Some(Ok(placed(1))));
        keys.forget(moment(WINDOW_MS + 1_000));
        assert_eq!(keys.look(&topic("a"), &key("k"), goal), None);
        assert_eq!(keys, Keys { first: 1, ..Keys::default() });
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut keys = Keys::default();
        let (a, goal) = (topic("a"), fingerprint(b"goal"));
        for nth in 0..COUNT_MAX as u128 + 2 {
            keys.remember(a.clone(), Name::Nonce(nth), goal, placed(1), moment(0));
        }
        let known = |nth| keys.look(&a, &Name::Nonce(nth), goal).is_some();
        assert_eq!([0, 1, 2, COUNT_MAX as u128 + 1].map(known), [false, false, true, true]);
    }

    #[test]
    fn the_oldest_go_when_their_names_are_too_long() {
        let mut keys = Keys::default();
        let (long, goal) = (topic(&"t".repeat(255)), fingerprint(b"goal"));
        let count = BYTES_MAX / (255 + OVERHEAD_BYTES) + 10;
        for nth in 0..count as u128 {
            keys.remember(long.clone(), Name::Nonce(nth), goal, placed(1), moment(0));
        }
        assert!(keys.bytes <= BYTES_MAX && keys.known.len() > count - 20);
        assert_eq!(keys.known.len(), keys.numbers.len());
    }
}
