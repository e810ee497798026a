//! Generated histories that satisfy every invariant.

use pushonce_core::{Durability, Position};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::history::{
    FaultEffect, HistoryEvent, HistoryRecord, LoggedMessage, RunPhase, SharedStr, SubscribeStart,
};

/// Simulates a cluster that satisfies every invariant, and records what its clients observe.
pub(super) struct SimulatedRun {
    rng: StdRng,
    now: u64,
    ops: u64,
    records: Vec<HistoryRecord>,
    log: Vec<LoggedMessage>,
    epoch: u64,
    /// Per subscriber: the newest position it has received.
    reached: Vec<Option<Position>>,
    owner: usize,
    /// Whether a subscriber may receive a gap instead of a message.
    may_gap: bool,
}

pub(super) const TOPIC: &str = "game/1";
const NODES: usize = 3;
pub(super) const REPLICATED: Durability = Durability::Replicated;

pub(super) fn name(text: impl AsRef<str>) -> SharedStr {
    text.as_ref().into()
}

impl SimulatedRun {
    /// Generates a run of `steps` steps.
    pub(super) fn generate(seed: u64, steps: usize) -> Vec<HistoryRecord> {
        let mut run = SimulatedRun {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            ops: 0,
            records: Vec::new(),
            log: Vec::new(),
            epoch: 5,
            reached: vec![None; 4],
            owner: 0,
            may_gap: false,
        };
        run.begin_phase(RunPhase::WarmUp);
        for node in 0..NODES {
            run.record(
                "prober",
                HistoryEvent::ResourceSample { node, rss_kib: 50_000, descriptors: 60 },
            );
        }
        for viewer in 0..run.reached.len() {
            run.subscribe(viewer);
        }
        for keyed in [true, false, true] {
            run.publish(true, keyed);
        }
        run.retry_keyed_publish();
        run.begin_phase(RunPhase::Faults);
        run.pause_owner();
        for viewer in 0..2 {
            run.publish_random(true);
            run.end_session(viewer);
            run.publish_random(true);
            run.subscribe(viewer);
        }
        for _ in 0..steps {
            run.step();
        }
        run.publish_random(true);
        run.publish_random(true);
        run.begin_phase(RunPhase::Drain);
        for viewer in 0..run.reached.len() {
            run.catch_up(viewer);
        }
        run.read_logs();
        run.records
    }

    fn record(&mut self, process: &str, event: HistoryEvent) {
        self.now += self.rng.random_range(1..2_000);
        self.records.push(HistoryRecord { time_us: self.now, process: name(process), event });
    }

    fn begin_phase(&mut self, phase: RunPhase) {
        self.record("runner", HistoryEvent::Phase { phase });
    }

    fn step(&mut self) {
        let viewer = self.rng.random_range(0..self.reached.len());
        match self.rng.random_range(0..12) {
            0..4 => self.publish_random(true),
            4 => self.publish_random(false),
            5..9 => self.catch_up(viewer),
            9 => {
                self.end_session(viewer);
                self.subscribe(viewer);
            }
            10 => self.retry_keyed_publish(),
            _ => self.pause_owner(),
        }
    }

    fn publish_random(&mut self, acknowledged: bool) {
        let keyed = self.rng.random();
        self.publish(acknowledged, keyed);
    }

    fn publish(&mut self, acknowledged: bool, keyed: bool) {
        self.ops += 1;
        let (op, payload) = (self.ops, 1_000 + self.ops);
        let key = keyed.then(|| name(format!("k{op}")));
        let sequence = key.is_none().then_some(op);
        let publisher = if key.is_some() { "unary" } else { "stream" };
        let (topic, node) = (name(TOPIC), Some(self.rng.random_range(0..NODES)));
        let event_key = key.clone();
        self.record(
            publisher,
            HistoryEvent::Publish { op, topic, payload, key: event_key, sequence, node },
        );
        if !acknowledged && self.rng.random_bool(0.3) {
            return self.record(publisher, HistoryEvent::Rejected { op, reason: name("full") });
        }
        if acknowledged || self.rng.random() {
            let offset = self.log.last().map_or(1, |last| last.position.offset.0 + 1);
            let position = Position::new(self.epoch, offset);
            self.log.push(LoggedMessage { position, payload, key });
        }
        let event = match self.log.last() {
            Some(last) if acknowledged => {
                HistoryEvent::Acknowledged { op, position: last.position, durability: REPLICATED }
            }
            _ => HistoryEvent::Unknown { op, reason: name("the owner died") },
        };
        self.record(publisher, event);
    }

    /// Retries an acknowledged publish with its key.
    fn retry_keyed_publish(&mut self) {
        let keyed: Vec<_> = self.log.iter().filter(|entry| entry.key.is_some()).cloned().collect();
        let Some(LoggedMessage { position, payload, key }) = keyed.choose(&mut self.rng).cloned()
        else {
            return;
        };
        self.ops += 1;
        let (op, node) = (self.ops, None);
        let topic = name(TOPIC);
        self.record(
            "unary",
            HistoryEvent::Publish { op, topic, payload, key, sequence: None, node },
        );
        self.record("unary", HistoryEvent::Acknowledged { op, position, durability: REPLICATED });
    }

    fn end_session(&mut self, viewer: usize) {
        self.record(
            &format!("viewer{viewer}"),
            HistoryEvent::SessionEnded { reason: name("the node died") },
        );
    }

    fn subscribe(&mut self, viewer: usize) {
        let process = format!("viewer{viewer}");
        let from = self.reached[viewer].map_or(SubscribeStart::Start, SubscribeStart::After);
        let (topic, transport) = (name(TOPIC), name("ws"));
        let node = Some(viewer % NODES);
        self.record(&process, HistoryEvent::Subscribe { topic, node, transport, from });
        let position = self.log.last().map_or(Position::ZERO, |last| last.position);
        self.record(
            &process,
            HistoryEvent::Subscribed { topic: name(TOPIC), position, recovered: true },
        );
        self.catch_up(viewer);
    }

    fn catch_up(&mut self, viewer: usize) {
        let process = format!("viewer{viewer}");
        let reached = self.reached[viewer];
        let pending: Vec<_> =
            self.log.iter().filter(|entry| Some(entry.position) > reached).cloned().collect();
        for LoggedMessage { position, payload, key } in pending {
            let topic = name(TOPIC);
            // Some messages are replaced by a gap, as a slow subscriber sees it.
            let event = if self.may_gap && reached.is_some() && self.rng.random_bool(0.2) {
                HistoryEvent::Gap { topic, from: position, to: position, reason: name("slow") }
            } else {
                HistoryEvent::Delivered { topic, position, payload, key }
            };
            self.record(&process, event);
            self.reached[viewer] = Some(position);
        }
        if let Some(position) = self.reached[viewer] {
            self.record(&process, HistoryEvent::Heartbeat { topic: name(TOPIC), position });
        }
        self.may_gap = true;
    }

    /// Pauses the owner; another node takes over and accepts a publish.
    fn pause_owner(&mut self) {
        let fault = name("pause owner");
        let owner = self.owner;
        let effect = FaultEffect {
            nodes: vec![owner],
            has_majority: true,
            deposed: vec![owner],
            damaged: vec![owner],
            flood: true,
            unready: vec![(owner + 1) % NODES],
        };
        self.record("nemesis", HistoryEvent::FaultInjected { fault: fault.clone(), effect });
        self.record("nemesis", HistoryEvent::FaultActive { fault: fault.clone() });
        self.owner = (owner + 1) % NODES;
        let because = name("the control group has no leader");
        self.record(
            "prober",
            HistoryEvent::Health { node: self.owner, ready: false, reason: because },
        );
        self.publish_random(true);
        self.set_stale(true);
        self.now += 6_000_000;
        self.record("nemesis", HistoryEvent::FaultHealed { fault });
        self.set_stale(false);
        self.publish_random(true);
        self.record(
            "prober",
            HistoryEvent::Health { node: self.owner, ready: true, reason: name("") },
        );
        // The resumed node delivers again.
        self.catch_up(owner);
    }

    /// Sends stale notices to the subscribers at the node that cannot deliver.
    fn set_stale(&mut self, stale: bool) {
        let affected = (0..self.reached.len()).filter(|viewer| viewer % NODES == self.owner);
        for viewer in affected.collect::<Vec<_>>() {
            let topic = name(TOPIC);
            self.record(&format!("viewer{viewer}"), HistoryEvent::Stale { topic, stale });
        }
    }

    fn read_logs(&mut self) {
        self.begin_phase(RunPhase::ReadLogs);
        for node in 0..NODES {
            let (topic, transport, log) = (name(TOPIC), name("http"), self.log.clone());
            self.record("reader", HistoryEvent::Log { topic, node, transport, log });
            self.record(
                "prober",
                HistoryEvent::ResourceSample { node, rss_kib: 60_000, descriptors: 62 },
            );
            self.record("reader", HistoryEvent::Panics { node, count: 0 });
        }
    }
}
