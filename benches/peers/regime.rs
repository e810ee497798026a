//! What is done to a server: a load of messages, or the loss of every connection.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pushonce::instruments::Watch;
use serde_json::{Value, json};

use crate::crowd::{Crowd, News, Seat};
use crate::load::{Load, Pacing};
use crate::memory::Memory;
use crate::wire::Role;
use crate::{LoadArgs, StormArgs, Target};

/// Handshakes under way at once: fewer than the shortest queue of new connections, mosquitto's 100,
/// so that nobody is measured by the second that the kernel waits before it tries again.
const OPENING_MAX: usize = 64;

const OPEN_MAX: Duration = Duration::from_secs(120);

/// In a closed loop nothing is sent while a message is missing.
const STALL_MAX: Duration = Duration::from_secs(5);

/// How long the last message may take to arrive everywhere.
const TAIL_MAX: Duration = Duration::from_secs(5);

/// Memory is looked at when the server has had time to put itself in order.
const SETTLE: Duration = Duration::from_secs(1);

/// Messages that everybody misses in a storm.
const MISSED: u64 = 5;

/// Connections, what they hear, and who of them publishes.
struct Run {
    crowd: Crowd,
    load: Load,
    publishers: Range<usize>,
    /// Connections that ended without being asked to, and why the first did.
    gone: u64,
    why: Option<String>,
}

/// Subscribers read what is published; some of them may have stopped.
pub(crate) fn load(args: &LoadArgs) -> anyhow::Result<Value> {
    let target = &args.target;
    if args.stopped > 0 && target.wire.is_quic() {
        bail!("who stops reading is measured over TCP only");
    }
    let mut watch = Watch::begin(&target.pid)?;
    let empty = Memory::of(&target.pid);
    let readers = target.subscribers() + args.stopped as usize;
    let mut run = Run::new(target, args.topics as usize, args.every_topic, readers, false)?;
    for seat in &mut run.crowd.seats[target.subscribers()..readers] {
        seat.stopped = true;
    }
    run.gather((0..readers).collect())?;
    run.idle(SETTLE)?;
    let full = Memory::of(&target.pid);
    run.gather(run.publishers.clone().collect())?;

    run.load.pace(args.pacing());
    run.turns(args.warm_up(), |_| false)?;
    watch.restart();
    let before = (run.load.seen.delivered, run.load.sent);
    run.load.seen.latency = Default::default();
    run.turns(Duration::from_secs_f64(args.seconds), |_| false)?;
    let usage = watch.end();
    let (deliveries, published) = (run.load.seen.delivered - before.0, run.load.sent - before.1);
    let loaded = Memory::of(&target.pid);

    run.load.pace(Pacing::Silent);
    run.turns(TAIL_MAX, Load::all_read)?;
    let (missing, lost) = (run.load.missing(), run.load.seen.missed);
    let latency = run.load.seen.latency.json();
    let stopped = run.wake(target.subscribers()..readers)?;
    let (seconds, cpu) = (usage.took.as_secs_f64(), usage.servers_cpu().as_secs_f64());
    let session = full.each(empty, readers);
    Ok(json!({
        "subscribers": target.subscribers(), "topics": args.topics as usize, "payload": target.payload,
        "in_flight": args.in_flight, "rate": args.rate, "seconds": seconds,
        "published": published, "deliveries": deliveries,
        "per_second": deliveries as f64 / seconds,
        "cpu_us": (deliveries > 0).then(|| cpu * 1e6 / deliveries as f64),
        "per_core": (cpu > 0.0).then(|| deliveries as f64 / cpu),
        "server_cores": cpu / seconds,
        "generator_cores": usage.own.map(|own| own.as_secs_f64() / seconds),
        "latency_ms": latency, "missing": missing, "missed": lost,
        "repeated": run.load.seen.repeated, "gone": run.gone, "why": run.why,
        "user_bytes_each": session.user_bytes, "kernel_bytes_each": session.kernel_bytes,
        "user_bytes": full.user_bytes,
        "grown_user_bytes": loaded.user_bytes.saturating_sub(full.user_bytes),
        "grown_kernel_bytes": loaded.kernel_bytes.saturating_sub(full.kernel_bytes),
        "stopped": stopped,
    }))
}

/// Every connection is cut in one moment, and all come back at once.
pub(crate) fn storm(args: &StormArgs) -> anyhow::Result<Value> {
    let target = &args.target;
    let mut watch = Watch::begin(&target.pid)?;
    let subscribers = target.subscribers();
    let mut run = Run::new(target, 1, false, subscribers, target.wire.resumes())?;
    let begun = Instant::now();
    run.gather((0..subscribers).collect())?;
    let first = begun.elapsed();
    run.gather(run.publishers.clone().collect())?;
    // So that everybody has a place to go on from.
    run.send(1);
    run.turns(TAIL_MAX, Load::all_read)?;
    let before = run.load.seen.delivered;

    watch.restart();
    let cut = Instant::now();
    (0..subscribers).for_each(|nth| run.crowd.drop(nth));
    run.send(MISSED);
    let retries = run.gather((0..subscribers).collect())?;
    let subscribed = cut.elapsed();
    run.send(1);
    run.turns(TAIL_MAX, Load::all_read)?;
    let whole = cut.elapsed();
    let cpu = watch.end().servers_cpu();
    let seen = &run.load.seen;
    Ok(json!({
        "subscribers": subscribers, "resumes": target.wire.resumes(),
        "first_seconds": first.as_secs_f64(),
        "subscribed_seconds": subscribed.as_secs_f64(),
        "whole_seconds": run.load.all_read().then_some(whole.as_secs_f64()),
        "cpu_us": cpu.as_secs_f64() * 1e6 / subscribers as f64,
        "retries": retries, "gone": run.gone, "why": run.why,
        "delivered": seen.delivered - before, "missed": seen.missed, "told": seen.told,
        "expected": (MISSED + 1) * subscribers as u64, "missing": run.load.missing(),
    }))
}

impl Run {
    fn new(
        target: &Target,
        topics: usize,
        every_topic: bool,
        readers: usize,
        marks: bool,
    ) -> anyhow::Result<Run> {
        if every_topic && !target.wire.reads_many() {
            bail!("only --wire pushonce knows --every-topic here");
        }
        let mut crowd = Crowd::new(target.wire, target.server, topics, marks)?;
        let publishers = readers..readers + target.wire.publishers(topics);
        let one = |nth: usize| nth % topics..nth % topics + 1;
        let read = |nth| if every_topic { 0..topics } else { one(nth) };
        let subscribers = (0..readers).map(|nth| Seat::new(nth, Role::Subscriber, read(nth)));
        let others = publishers.clone();
        let others = others.map(|nth| Seat::new(nth, Role::Publisher, one(nth - readers)));
        crowd.seats = subscribers.chain(others).collect();
        let load = Load::new(std::process::id(), target.payload as usize, topics);
        Ok(Run { crowd, load, publishers, gone: 0, why: None })
    }

    /// Opens so many seats, some at a time, until all are ready; a seat that is refused tries again.
    /// Says how often that was.
    fn gather(&mut self, mut waiting: VecDeque<usize>) -> anyhow::Result<u64> {
        let end = Instant::now() + OPEN_MAX;
        let (all, mut ready, mut opening, mut retries) = (waiting.len(), 0, 0, 0);
        while ready < all {
            while opening < OPENING_MAX
                && let Some(nth) = waiting.pop_front()
            {
                self.crowd.open(nth).with_context(|| format!("connection {nth}"))?;
                opening += 1;
            }
            let (load, why) = (&mut self.load, &mut self.why);
            let mut hear = |seat: &mut Seat, news: News<'_>, at| match news {
                News::Ready => {
                    (opening, ready) = (opening - 1, ready + 1);
                    if seat.role == Role::Subscriber && !seat.stopped && !seat.counted {
                        seat.counted = true;
                        seat.topics.clone().for_each(|topic| load.joined(topic));
                    }
                }
                News::Gone(reason) => {
                    why.get_or_insert(reason);
                    (opening, retries) = (opening - 1, retries + 1);
                    waiting.push_back(seat.nth);
                }
                news => load.hear(seat, &news, at),
            };
            self.crowd.turn(TURN, self.publishers.clone(), &mut hear)?;
            if retries > all as u64 || Instant::now() > end {
                bail!("{ready} of {all} subscribed, {retries} times refused: {:?}", self.why);
            }
        }
        Ok(retries)
    }

    /// Publishes and reads for so long, or until it is done.
    fn turns(&mut self, span: Duration, done: impl Fn(&Load) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + span;
        let (mut progress, mut at) = (self.load.seen.delivered, Instant::now());
        while Instant::now() < end && !done(&self.load) {
            let wait = self.load.publish(&mut self.crowd, self.publishers.clone());
            self.turn(wait)?;
            if self.load.all_read() || self.load.seen.delivered > progress {
                (progress, at) = (self.load.seen.delivered, Instant::now());
            } else if at.elapsed() > STALL_MAX {
                bail!("nothing arrives: {} missing, {:?}", self.load.missing(), self.why);
            }
        }
        Ok(())
    }

    fn turn(&mut self, wait: Duration) -> anyhow::Result<()> {
        let (load, gone, why) = (&mut self.load, &mut self.gone, &mut self.why);
        let mut hear = |seat: &mut Seat, news: News<'_>, at| match news {
            News::Gone(reason) => {
                *gone += 1;
                why.get_or_insert(reason);
            }
            news => load.hear(seat, &news, at),
        };
        Ok(self.crowd.turn(wait, self.publishers.clone(), &mut hear)?)
    }

    fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.load.send(&mut self.crowd, self.publishers.clone(), Instant::now());
        }
    }

    fn idle(&mut self, span: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.turn(TURN)?;
        }
        Ok(())
    }

    /// Lets the stopped read on, for some seconds; tells what they got in the end.
    fn wake(&mut self, stopped: Range<usize>) -> anyhow::Result<Option<Value>> {
        if stopped.is_empty() {
            return Ok(None);
        }
        let before = (self.load.seen.delivered, self.load.seen.missed, self.gone);
        let (count, told) = (stopped.len(), self.load.seen.told);
        for nth in stopped {
            self.crowd.wake(nth)?;
        }
        self.idle(TAIL_MAX)?;
        let seen = &self.load.seen;
        Ok(Some(json!({
            "count": count, "published": self.load.sent,
            "received": seen.delivered - before.0, "missed": seen.missed - before.1,
            "told": seen.told - told, "cut": self.gone - before.2,
        })))
    }
}

const TURN: Duration = Duration::from_millis(100);
