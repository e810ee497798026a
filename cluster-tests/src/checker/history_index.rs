//! A history, indexed for the invariant checks.

use std::collections::{BTreeMap, HashMap};

use pushonce_core::{Durability, Position};

use crate::history::{FaultEffect, HistoryEvent, HistoryRecord, OpId, PayloadHash, SharedStr};

/// An indexed history.
pub struct HistoryIndex<'a> {
    /// All records, ordered by time.
    pub records: &'a [HistoryRecord],
    /// The history of each topic.
    pub topics: BTreeMap<&'a str, TopicHistory<'a>>,
    /// The confirmed faults.
    pub faults: Vec<FaultPeriod<'a>>,
}

/// The history of a topic.
#[derive(Default)]
pub struct TopicHistory<'a> {
    /// Publishes, ordered by invocation.
    pub publishes: Vec<PublishRecord<'a>>,
    /// The logs that were read at the end.
    pub logs: Vec<NodeLog<'a>>,
    /// Per process: the indices of its subscription's records, in order.
    pub subscriptions: BTreeMap<&'a str, Vec<usize>>,
    /// The durability with which each position was acknowledged.
    pub durabilities: BTreeMap<Position, Durability>,
}

/// A publish, from its invocation to its outcome.
pub struct PublishRecord<'a> {
    /// The record of its invocation.
    pub invoked: usize,
    /// Its payload.
    pub payload: PayloadHash,
    /// Its key.
    pub key: Option<&'a str>,
    /// The number in its publisher's stream.
    pub sequence: Option<u64>,
    /// The node that received the request.
    pub node: Option<usize>,
    /// The outcome.
    pub outcome: RecordedOutcome,
}

/// The outcome of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedOutcome {
    /// Acknowledged at this position, by this record.
    Acknowledged(Position, usize),
    /// Not published, by this record.
    Rejected(usize),
    /// No definite outcome.
    Unknown,
}

/// A log as a node returned it at the end.
pub struct NodeLog<'a> {
    /// The record.
    pub record: usize,
    /// The node.
    pub node: usize,
    /// The transport over which it was read.
    pub transport: &'a str,
    /// Payloads by position.
    pub entries: BTreeMap<Position, PayloadHash>,
}

/// A confirmed fault, with the records of its injection, confirmation and end.
pub struct FaultPeriod<'a> {
    /// The fault's name.
    pub fault: &'a str,
    /// The effect on the cluster.
    pub effect: &'a FaultEffect,
    /// The record of the injection.
    pub begin: usize,
    /// The record of the confirmation.
    pub confirmed: usize,
    /// The record of the end. `None` in a history that ends before.
    pub end: Option<usize>,
}

impl<'a> HistoryIndex<'a> {
    /// Indexes a history.
    pub fn from_records(records: &'a [HistoryRecord]) -> HistoryIndex<'a> {
        let mut history =
            HistoryIndex { records, topics: BTreeMap::new(), faults: fault_periods(records) };
        let mut in_flight: HashMap<OpId, (&str, usize)> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let outcome = match &record.event {
                HistoryEvent::Publish { op, topic, payload, key, sequence, node } => {
                    let publishes = &mut history.topic_mut(topic).publishes;
                    in_flight.insert(*op, (topic, publishes.len()));
                    publishes.push(PublishRecord {
                        invoked: index,
                        payload: *payload,
                        key: key.as_deref(),
                        sequence: *sequence,
                        node: *node,
                        outcome: RecordedOutcome::Unknown,
                    });
                    None
                }
                HistoryEvent::Acknowledged { op, position, durability } => {
                    if let Some((topic, _)) = in_flight.get(op) {
                        history.topic_mut(topic).durabilities.insert(*position, *durability);
                    }
                    Some((op, RecordedOutcome::Acknowledged(*position, index)))
                }
                HistoryEvent::Rejected { op, .. } => Some((op, RecordedOutcome::Rejected(index))),
                HistoryEvent::Log { topic, node, transport, log } => {
                    let entries = log.iter().map(|entry| (entry.position, entry.payload));
                    let entries = entries.collect();
                    let log = NodeLog { record: index, node: *node, transport, entries };
                    history.topic_mut(topic).logs.push(log);
                    None
                }
                event => {
                    history.add_subscription_event(event, &record.process, index);
                    None
                }
            };
            if let Some((op, outcome)) = outcome
                && let Some((topic, place)) = in_flight.remove(op)
            {
                history.topic_mut(topic).publishes[place].outcome = outcome;
            }
        }
        history
    }

    fn topic_mut(&mut self, name: &'a str) -> &mut TopicHistory<'a> {
        self.topics.entry(name).or_default()
    }

    fn add_subscription_event(
        &mut self,
        event: &'a HistoryEvent,
        process: &'a SharedStr,
        index: usize,
    ) {
        match event {
            HistoryEvent::Subscribe { topic, .. }
            | HistoryEvent::Subscribed { topic, .. }
            | HistoryEvent::SubscribeRejected { topic, .. }
            | HistoryEvent::Delivered { topic, .. }
            | HistoryEvent::Gap { topic, .. }
            | HistoryEvent::UnsignalledGap { topic, .. }
            | HistoryEvent::Unsubscribed { topic }
            | HistoryEvent::Heartbeat { topic, .. }
            | HistoryEvent::Stale { topic, .. } => {
                self.topic_mut(topic).subscriptions.entry(process).or_default().push(index);
            }
            HistoryEvent::SessionEnded { .. } => {
                let topics = self.topics.values_mut();
                let subscriptions =
                    topics.filter_map(|topic| topic.subscriptions.get_mut(&**process));
                subscriptions.for_each(|subscription| subscription.push(index));
            }
            _ => {}
        }
    }

    /// The event of a record.
    pub fn event(&self, index: usize) -> &'a HistoryEvent {
        &self.records[index].event
    }

    /// The time of a record, in microseconds since the start of the run.
    pub fn time_us(&self, index: usize) -> u64 {
        self.records[index].time_us
    }

    /// All deliveries of a topic: process, record, position, payload.
    pub fn deliveries<'r>(
        &'r self,
        topic: &'r TopicHistory<'a>,
    ) -> impl Iterator<Item = (&'a str, usize, Position, PayloadHash)> + 'r {
        topic.subscriptions.iter().flat_map(|(process, indices)| {
            indices.iter().filter_map(|&index| match self.event(index) {
                HistoryEvent::Delivered { position, payload, .. } => {
                    Some((*process, index, *position, *payload))
                }
                _ => None,
            })
        })
    }
}

impl TopicHistory<'_> {
    /// The acknowledged publishes: publish, position, record of the acknowledgement.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&PublishRecord<'_>, Position, usize)> {
        self.publishes.iter().filter_map(|publish| match publish.outcome {
            RecordedOutcome::Acknowledged(position, record) => Some((publish, position, record)),
            _ => None,
        })
    }

    /// Whether a message may have been in the owner's memory only. One that was not acknowledged is assumed to be like its
    /// neighbours in the epoch, or like any other message of the topic.
    pub fn may_be_in_memory(&self, position: Position) -> bool {
        let is_in_memory = |(_, durability): (_, &Durability)| *durability == Durability::Memory;
        if let Some(durability) = self.durabilities.get(&position) {
            return *durability == Durability::Memory;
        }
        let in_epoch = |entry: &(&Position, _)| entry.0.epoch == position.epoch;
        let before = self.durabilities.range(..position).next_back().filter(in_epoch);
        let after = self.durabilities.range(position..).next().filter(in_epoch);
        match (before, after) {
            (None, None) => self.durabilities.iter().any(is_in_memory),
            neighbours => [neighbours.0, neighbours.1].into_iter().flatten().any(is_in_memory),
        }
    }

    /// Payloads by position, merged over all logs that were read.
    pub fn merged_log(&self) -> BTreeMap<Position, PayloadHash> {
        self.logs
            .iter()
            .flat_map(|log| &log.entries)
            .map(|(position, payload)| (*position, *payload))
            .collect()
    }

    /// The newest position in any log.
    pub fn head(&self) -> Option<Position> {
        self.logs.iter().filter_map(|log| log.entries.keys().next_back()).max().copied()
    }
}

fn fault_periods(records: &[HistoryRecord]) -> Vec<FaultPeriod<'_>> {
    let mut periods: Vec<FaultPeriod<'_>> = Vec::new();
    let mut begin = None;
    for (index, record) in records.iter().enumerate() {
        match &record.event {
            HistoryEvent::FaultInjected { effect, .. } => begin = Some((index, effect)),
            HistoryEvent::FaultActive { fault } => {
                if let Some((begins, effect)) = begin {
                    periods.push(FaultPeriod {
                        fault,
                        effect,
                        begin: begins,
                        confirmed: index,
                        end: None,
                    });
                }
            }
            HistoryEvent::FaultHealed { .. } => {
                if let Some(last) = periods.last_mut().filter(|last| last.end.is_none()) {
                    last.end = Some(index);
                }
            }
            _ => {}
        }
    }
    periods
}
