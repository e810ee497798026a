//! A history, sorted by what the properties ask about.

use std::collections::{BTreeMap, HashMap};

use pushonce_core::{Durability, Position};

use crate::history::{Effect, Event, Hash, Name, Op, Record};

/// A history, sorted.
pub struct Run<'a> {
    /// All records, by time.
    pub records: &'a [Record],
    /// What happened in each topic.
    pub topics: BTreeMap<&'a str, Topic<'a>>,
    /// The faults that took place.
    pub faults: Vec<Installed<'a>>,
}

/// What happened in a topic.
#[derive(Default)]
pub struct Topic<'a> {
    /// By invocation.
    pub publishes: Vec<Publish<'a>>,
    /// The logs that were read in the end.
    pub logs: Vec<Log<'a>>,
    /// By process: the indices of the records of its subscription, in order.
    pub subscriptions: BTreeMap<&'a str, Vec<usize>>,
    /// The newest position that was acknowledged as kept in memory alone.
    pub in_memory: Option<Position>,
}

/// A publish, from its invocation to its outcome.
pub struct Publish<'a> {
    /// The record of its invocation.
    pub invoked: usize,
    /// Its payload.
    pub payload: Hash,
    /// Its key.
    pub key: Option<&'a str>,
    /// Its number in its publisher's stream.
    pub sequence: Option<u64>,
    /// The node that was asked.
    pub node: Option<usize>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has a place, by this record.
    Placed(Position, usize),
    /// Nothing happened, by this record.
    Refused(usize),
    /// Nobody knows.
    Unknown,
}

/// A log as a node gave it in the end.
pub struct Log<'a> {
    /// The record.
    pub record: usize,
    /// The node.
    pub node: usize,
    /// How it was asked.
    pub transport: &'a str,
    /// By position.
    pub entries: BTreeMap<Position, Hash>,
}

/// A fault that was confirmed, by the records of its beginning, confirmation and end.
pub struct Installed<'a> {
    /// Its name.
    pub fault: &'a str,
    /// What it does.
    pub effect: &'a Effect,
    /// It was about to begin.
    pub begins: usize,
    /// It was there.
    pub confirmed: usize,
    /// It was over; absent in a history that ends before.
    pub ends: Option<usize>,
}

impl<'a> Run<'a> {
    /// Sorts a history.
    pub fn of(records: &'a [Record]) -> Run<'a> {
        let mut run = Run { records, topics: BTreeMap::new(), faults: faults(records) };
        let mut under_way: HashMap<Op, (&str, usize)> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let outcome = match &record.event {
                Event::Publish { op, topic, payload, key, sequence, node } => {
                    let publishes = &mut run.topic(topic).publishes;
                    under_way.insert(*op, (topic, publishes.len()));
                    publishes.push(Publish {
                        invoked: index,
                        payload: *payload,
                        key: key.as_deref(),
                        sequence: *sequence,
                        node: *node,
                        outcome: Outcome::Unknown,
                    });
                    None
                }
                Event::Placed { op, position, durability } => {
                    if let (Durability::Memory, Some((topic, _))) = (durability, under_way.get(op))
                    {
                        let newest = &mut run.topic(topic).in_memory;
                        *newest = (*newest).max(Some(*position));
                    }
                    Some((op, Outcome::Placed(*position, index)))
                }
                Event::Refused { op, .. } => Some((op, Outcome::Refused(index))),
                Event::Log { topic, node, transport, log } => {
                    let entries = log.iter().map(|entry| (entry.position, entry.payload));
                    let entries = entries.collect();
                    let log = Log { record: index, node: *node, transport, entries };
                    run.topic(topic).logs.push(log);
                    None
                }
                event => {
                    run.of_subscription(event, &record.process, index);
                    None
                }
            };
            if let Some((op, outcome)) = outcome
                && let Some((topic, place)) = under_way.remove(op)
            {
                run.topic(topic).publishes[place].outcome = outcome;
            }
        }
        run
    }

    fn topic(&mut self, name: &'a str) -> &mut Topic<'a> {
        self.topics.entry(name).or_default()
    }

    fn of_subscription(&mut self, event: &'a Event, process: &'a Name, index: usize) {
        match event {
            Event::Subscribe { topic, .. }
            | Event::Subscribed { topic, .. }
            | Event::SubscribeRefused { topic, .. }
            | Event::Delivered { topic, .. }
            | Event::Gap { topic, .. }
            | Event::Hole { topic, .. }
            | Event::Left { topic }
            | Event::Heartbeat { topic, .. }
            | Event::Stale { topic, .. } => {
                self.topic(topic).subscriptions.entry(process).or_default().push(index);
            }
            Event::Ended { .. } => {
                let topics = self.topics.values_mut();
                let theirs = topics.filter_map(|topic| topic.subscriptions.get_mut(&**process));
                theirs.for_each(|subscription| subscription.push(index));
            }
            _ => {}
        }
    }

    /// The event of a record.
    pub fn event(&self, index: usize) -> &'a Event {
        &self.records[index].event
    }

    /// When it happened, in microseconds since the run began.
    pub fn at(&self, index: usize) -> u64 {
        self.records[index].at
    }

    /// Every delivery of a topic: process, record, position, payload.
    pub fn delivered<'r>(
        &'r self,
        topic: &'r Topic<'a>,
    ) -> impl Iterator<Item = (&'a str, usize, Position, Hash)> + 'r {
        topic.subscriptions.iter().flat_map(|(process, indices)| {
            indices.iter().filter_map(|&index| match self.event(index) {
                Event::Delivered { position, payload, .. } => {
                    Some((*process, index, *position, *payload))
                }
                _ => None,
            })
        })
    }
}

impl Topic<'_> {
    /// The acknowledged: publish, position, record of the acknowledgement.
    pub fn placed(&self) -> impl Iterator<Item = (&Publish<'_>, Position, usize)> {
        self.publishes.iter().filter_map(|publish| match publish.outcome {
            Outcome::Placed(position, record) => Some((publish, position, record)),
            _ => None,
        })
    }

    /// Position to payload, over every log that was read.
    pub fn log(&self) -> BTreeMap<Position, Hash> {
        self.logs.iter().flat_map(|log| &log.entries).map(|(at, what)| (*at, *what)).collect()
    }

    /// The newest position that any log has.
    pub fn head(&self) -> Option<Position> {
        self.logs.iter().filter_map(|log| log.entries.keys().next_back()).max().copied()
    }
}

fn faults(records: &[Record]) -> Vec<Installed<'_>> {
    let mut found: Vec<Installed<'_>> = Vec::new();
    let mut begun = None;
    for (index, record) in records.iter().enumerate() {
        match &record.event {
            Event::FaultBegins { effect, .. } => begun = Some((index, effect)),
            Event::FaultConfirmed { fault } => {
                if let Some((begins, effect)) = begun {
                    found.push(Installed { fault, effect, begins, confirmed: index, ends: None });
                }
            }
            Event::FaultEnds { .. } => {
                if let Some(last) = found.last_mut().filter(|last| last.ends.is_none()) {
                    last.ends = Some(index);
                }
            }
            _ => {}
        }
    }
    found
}
