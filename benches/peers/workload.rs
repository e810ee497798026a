//! The workloads: a load of messages, or the loss of every connection.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pushonce_instruments::ProcessMonitor;
use serde_json::{Value, json};

use crate::client_pool::{BenchClient, ClientEvent, ClientPool};
use crate::load::{BenchLoad, LoadPacing};
use crate::memory::ServerMemory;
use crate::wire::Role;
use crate::{BenchTarget, LoadArgs, StormArgs};

/// The maximum number of concurrent handshakes: less than the shortest accept queue, mosquitto's 100, so that
/// the kernel's retry delay of a second does not distort the measurement.
const CONNECTING_MAX: usize = 64;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(120);

/// The maximum time without a delivery. In a closed loop nothing is sent while a message is missing.
const STALL_MAX: Duration = Duration::from_secs(5);

/// The maximum time for the last message to reach all readers.
const TAIL_MAX: Duration = Duration::from_secs(5);

/// The delay before a memory measurement, so that the server can release temporary memory.
const SETTLE: Duration = Duration::from_secs(1);

/// The number of messages published while all connections are down.
const STORM_MESSAGES: u64 = 5;

/// The connections, the load, and the publishing clients.
struct BenchRun {
    clients: ClientPool,
    load: BenchLoad,
    publishers: Range<usize>,
    /// The number of connections that ended unexpectedly, and the reason of the first.
    disconnects: u64,
    first_disconnect_reason: Option<String>,
}

/// Measures subscribers that read, optionally with additional ones that do not.
pub(crate) fn run_load(args: &LoadArgs) -> anyhow::Result<Value> {
    let target = &args.target;
    if target.tls && target.protocol.is_quic() {
        bail!("QUIC has TLS of its own; leave --tls out");
    }
    if args.stopped > 0 && target.protocol.is_quic() {
        bail!("--stopped is supported over TCP only");
    }
    let mut watch = ProcessMonitor::start(&target.pid)?;
    let empty = ServerMemory::measure(&target.pid);
    let readers = target.subscribers() + args.stopped as usize;
    let mut run = BenchRun::new(target, args.topics as usize, args.every_topic, readers, false)?;
    for client in &mut run.clients.clients[target.subscribers()..readers] {
        client.is_stopped = true;
    }
    run.connect_all((0..readers).collect())?;
    run.idle(SETTLE)?;
    let full = ServerMemory::measure(&target.pid);
    run.connect_all(run.publishers.clone().collect())?;

    run.load.set_pacing(args.pacing());
    run.run_for(args.warm_up(), |_| false)?;
    watch.restart();
    let before = (run.load.stats.delivered, run.load.sent);
    run.load.stats.latency = Default::default();
    run.run_for(Duration::from_secs_f64(args.seconds), |_| false)?;
    let usage = watch.usage();
    let (deliveries, published) = (run.load.stats.delivered - before.0, run.load.sent - before.1);
    let loaded = ServerMemory::measure(&target.pid);

    run.load.set_pacing(LoadPacing::Silent);
    run.run_for(TAIL_MAX, BenchLoad::is_all_read)?;
    let (missing, missed) = (run.load.missing_deliveries(), run.load.stats.missed);
    let latency = run.load.stats.latency.json();
    let stopped = run.resume_stopped(target.subscribers()..readers)?;
    let (seconds, cpu) = (usage.elapsed.as_secs_f64(), usage.servers_cpu().as_secs_f64());
    let session = full.per_unit(empty, readers);
    Ok(json!({
        "subscribers": target.subscribers(), "topics": args.topics as usize, "payload": target.payload,
        "in_flight": args.in_flight, "rate": args.rate, "seconds": seconds,
        "published": published, "deliveries": deliveries,
        "per_second": deliveries as f64 / seconds,
        "cpu_us": (deliveries > 0).then(|| cpu * 1e6 / deliveries as f64),
        "per_core": (cpu > 0.0).then(|| deliveries as f64 / cpu),
        "server_cores": cpu / seconds,
        "generator_cores": usage.generator_cpu.map(|own| own.as_secs_f64() / seconds),
        "latency_ms": latency, "missing": missing, "missed": missed,
        "repeated": run.load.stats.repeated, "disconnects": run.disconnects, "first_disconnect_reason": run.first_disconnect_reason,
        "user_bytes_each": session.user_bytes, "kernel_bytes_each": session.kernel_bytes,
        "user_bytes": full.user_bytes,
        "grown_user_bytes": loaded.user_bytes.saturating_sub(full.user_bytes),
        "grown_kernel_bytes": loaded.kernel_bytes.saturating_sub(full.kernel_bytes),
        "stopped": stopped,
    }))
}

/// Closes every connection at once, and measures the time until all are back.
pub(crate) fn run_storm(args: &StormArgs) -> anyhow::Result<Value> {
    let target = &args.target;
    let mut watch = ProcessMonitor::start(&target.pid)?;
    let subscribers = target.subscribers();
    let mut run = BenchRun::new(target, 1, false, subscribers, target.protocol.resumes())?;
    let started = Instant::now();
    run.connect_all((0..subscribers).collect())?;
    let first_connected = started.elapsed();
    run.connect_all(run.publishers.clone().collect())?;
    // Gives every subscriber a position to resume from.
    run.publish_now(1);
    run.run_for(TAIL_MAX, BenchLoad::is_all_read)?;
    let before = run.load.stats.delivered;

    watch.restart();
    let cut_at = Instant::now();
    (0..subscribers).for_each(|nth| run.clients.abort(nth));
    run.publish_now(STORM_MESSAGES);
    let retries = run.connect_all((0..subscribers).collect())?;
    let resubscribed = cut_at.elapsed();
    run.publish_now(1);
    run.run_for(TAIL_MAX, BenchLoad::is_all_read)?;
    let all_read = cut_at.elapsed();
    let cpu = watch.usage().servers_cpu();
    let stats = &run.load.stats;
    Ok(json!({
        "subscribers": subscribers, "resumes": target.protocol.resumes(),
        "first_seconds": first_connected.as_secs_f64(),
        "subscribed_seconds": resubscribed.as_secs_f64(),
        "whole_seconds": run.load.is_all_read().then_some(all_read.as_secs_f64()),
        "cpu_us": cpu.as_secs_f64() * 1e6 / subscribers as f64,
        "retries": retries, "disconnects": run.disconnects, "first_disconnect_reason": run.first_disconnect_reason,
        "delivered": stats.delivered - before, "missed": stats.missed, "skipped": stats.skipped,
        "expected": (STORM_MESSAGES + 1) * subscribers as u64, "missing": run.load.missing_deliveries(),
    }))
}

impl BenchRun {
    fn new(
        target: &BenchTarget,
        topics: usize,
        every_topic: bool,
        readers: usize,
        with_resume_tokens: bool,
    ) -> anyhow::Result<BenchRun> {
        if every_topic && !target.protocol.reads_many() {
            bail!("--every-topic needs --protocol pushonce");
        }
        let mut clients = ClientPool::new(
            target.protocol,
            target.server,
            target.tls,
            topics,
            with_resume_tokens,
        )?;
        let publishers = readers..readers + target.protocol.publishers(topics);
        let one_topic = |nth: usize| nth % topics..nth % topics + 1;
        let topics_of = |nth| if every_topic { 0..topics } else { one_topic(nth) };
        let subscribers =
            (0..readers).map(|nth| BenchClient::new(nth, Role::Subscriber, topics_of(nth)));
        let others = publishers.clone();
        let others =
            others.map(|nth| BenchClient::new(nth, Role::Publisher, one_topic(nth - readers)));
        clients.clients = subscribers.chain(others).collect();
        let load = BenchLoad::new(std::process::id(), target.payload as usize, topics);
        Ok(BenchRun { clients, load, publishers, disconnects: 0, first_disconnect_reason: None })
    }

    /// Connects the clients, a limited number at a time, until all are ready; a rejected client tries again.
    /// Returns the number of retries.
    fn connect_all(&mut self, mut waiting: VecDeque<usize>) -> anyhow::Result<u64> {
        let end = Instant::now() + CONNECT_TIME_MAX;
        let (total, mut ready, mut connecting, mut retries) = (waiting.len(), 0, 0, 0);
        while ready < total {
            while connecting < CONNECTING_MAX
                && let Some(nth) = waiting.pop_front()
            {
                self.clients.connect(nth).with_context(|| format!("connection {nth}"))?;
                connecting += 1;
            }
            let (load, first_reason) = (&mut self.load, &mut self.first_disconnect_reason);
            let mut on_event = |client: &mut BenchClient, event: ClientEvent<'_>, at| match event {
                ClientEvent::Ready => {
                    (connecting, ready) = (connecting - 1, ready + 1);
                    if client.role == Role::Subscriber && !client.is_stopped && !client.is_counted {
                        client.is_counted = true;
                        client.topics.clone().for_each(|topic| load.add_reader(topic));
                    }
                }
                ClientEvent::Disconnected(reason) => {
                    first_reason.get_or_insert(reason);
                    (connecting, retries) = (connecting - 1, retries + 1);
                    waiting.push_back(client.index);
                }
                event => load.on_event(client, &event, at),
            };
            self.clients.poll_once(POLL_WAIT, self.publishers.clone(), &mut on_event)?;
            if retries > total as u64 || Instant::now() > end {
                bail!(
                    "{ready} of {total} connections are ready after {retries} retries: {:?}",
                    self.first_disconnect_reason
                );
            }
        }
        Ok(retries)
    }

    /// Publishes and reads for `span`, or until `done` returns true.
    fn run_for(&mut self, span: Duration, done: impl Fn(&BenchLoad) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + span;
        let (mut progress, mut at) = (self.load.stats.delivered, Instant::now());
        while Instant::now() < end && !done(&self.load) {
            let wait = self.load.publish_due(&mut self.clients, self.publishers.clone());
            self.poll_once(wait)?;
            if self.load.is_all_read() || self.load.stats.delivered > progress {
                (progress, at) = (self.load.stats.delivered, Instant::now());
            } else if at.elapsed() > STALL_MAX {
                bail!(
                    "no delivery for {STALL_MAX:?}: {} missing, {:?}",
                    self.load.missing_deliveries(),
                    self.first_disconnect_reason
                );
            }
        }
        Ok(())
    }

    fn poll_once(&mut self, wait: Duration) -> anyhow::Result<()> {
        let (load, disconnects, first_reason) =
            (&mut self.load, &mut self.disconnects, &mut self.first_disconnect_reason);
        let mut on_event = |client: &mut BenchClient, event: ClientEvent<'_>, at| match event {
            ClientEvent::Disconnected(reason) => {
                *disconnects += 1;
                first_reason.get_or_insert(reason);
            }
            event => load.on_event(client, &event, at),
        };
        Ok(self.clients.poll_once(wait, self.publishers.clone(), &mut on_event)?)
    }

    fn publish_now(&mut self, count: u64) {
        for _ in 0..count {
            self.load.publish_one(&mut self.clients, self.publishers.clone(), Instant::now());
        }
    }

    fn idle(&mut self, span: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.poll_once(POLL_WAIT)?;
        }
        Ok(())
    }

    /// Lets the stopped readers read for some seconds; returns what they received.
    fn resume_stopped(&mut self, stopped: Range<usize>) -> anyhow::Result<Option<Value>> {
        if stopped.is_empty() {
            return Ok(None);
        }
        let before = (self.load.stats.delivered, self.load.stats.missed, self.disconnects);
        let (count, skipped_before) = (stopped.len(), self.load.stats.skipped);
        for nth in stopped {
            self.clients.resume_reading(nth)?;
        }
        self.idle(TAIL_MAX)?;
        let stats = &self.load.stats;
        Ok(Some(json!({
            "count": count, "published": self.load.sent,
            "received": stats.delivered - before.0, "missed": stats.missed - before.1,
            "skipped": stats.skipped - skipped_before, "cut": self.disconnects - before.2,
        })))
    }
}

const POLL_WAIT: Duration = Duration::from_millis(100);
