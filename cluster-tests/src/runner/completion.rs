//! The end of a run: subscribers catch up, and the logs are read.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use pushonce_client::{CertificateTrust, Transport};
use pushonce_core::Position;

use crate::history::{HistoryEvent, HistoryRecord, ProcessRecorder, Recorder};
use crate::load;
use crate::node::Ports;
use crate::wait::{secs, wait_until};

/// Waits until every subscriber has the newest messages, or the time limit is over. The checker reports
/// subscribers that have not caught up by then. `node` is asked for the newest messages.
pub async fn wait_caught_up(node: Ports, topics: &[String], recorder: &Recorder, limit: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        let mut heads = HashMap::new();
        for topic in topics {
            if let Ok(head) = load::topic_head(node, topic).await {
                heads.insert(topic.as_str(), head);
            }
        }
        let is_level =
            |records: &[HistoryRecord]| all_caught_up(records, |topic| heads.get(topic).copied());
        if recorder.with_records(is_level).is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Checks that every subscription has reached the head of its topic, or has received any message if the head
/// is unknown. Subscriptions with forged positions are left out, because they end early.
///
/// # Errors
/// The first subscription that has not.
pub fn all_caught_up(
    records: &[HistoryRecord],
    head: impl Fn(&str) -> Option<Position>,
) -> Result<(), String> {
    let mut reached = BTreeMap::new();
    for HistoryRecord { process, event, .. } in records {
        match event {
            HistoryEvent::Subscribe { topic, .. } if !process.starts_with("forger") => {
                reached.entry((process, topic)).or_insert(None);
            }
            HistoryEvent::Delivered { topic, position, .. }
            | HistoryEvent::Gap { topic, to: position, .. } => {
                if let Some(newest) = reached.get_mut(&(process, topic)) {
                    *newest = (*newest).max(Some(*position));
                }
            }
            _ => {}
        }
    }
    if reached.is_empty() {
        return Err("there is no subscription".to_owned());
    }
    for ((process, topic), position) in reached {
        match (position, head(topic)) {
            (None, _) => return Err(format!("{process} has received no message of {topic}")),
            (Some(position), Some(head)) if position < head => {
                return Err(format!("{process} is at {position} of {topic}, which is at {head}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where logs are read.
pub struct LogReaders<'a> {
    /// The nodes, with their numbers.
    pub nodes: &'a [(usize, Ports)],
    /// The trust in their certificates.
    pub trust: &'a CertificateTrust,
    /// The transports besides HTTP.
    pub transports: &'a [Transport],
}

impl LogReaders<'_> {
    /// Reads the log of every topic from every node over every transport.
    ///
    /// # Panics
    /// When a log cannot be read within a minute.
    pub async fn read_all(&self, topics: &[String], process_recorder: &ProcessRecorder) {
        for &(node, ports) in self.nodes {
            for topic in topics {
                let condition = format!("the log of {topic} at node {node}");
                let server = (ports, self.trust);
                // After an incomplete attempt everything is read again; the same logs are then recorded twice.
                wait_until(&condition, secs(60), async || {
                    load::read_logs(process_recorder, node, server, self.transports, topic).await
                })
                .await;
            }
        }
    }
}
