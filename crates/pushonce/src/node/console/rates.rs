//! `GET /console/data/rates`: what all nodes did in the last minutes.

use std::collections::BTreeMap;

use pushonce_core::NodeId;
use pushonce_proto::pb::peer::v1 as pb;
use serde::Serialize;

use super::ConsoleData;
use super::latency::LatencySummary;
use super::sample_history::Sample;

/// Seconds by which the newest samples of two nodes may differ while their clocks agree: the samples are taken at
/// different moments of a second, and travel for a while.
const CLOCK_SKEW_MAX: u64 = 2;

#[derive(Serialize)]
pub(super) struct RatesJson {
    /// All nodes that responded together, ordered by time. Latencies are those of the slowest node.
    samples: Vec<SampleJson>,
    /// The newest sample of each member.
    nodes: Vec<NodeJson>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct SampleJson {
    /// Seconds since the Unix epoch, by the clock of this node.
    second: u64,
    published: u64,
    rejected: u64,
    delivered: u64,
    sent_bytes: u64,
    sessions: u64,
    subscriptions: u64,
    publish_p50_us: Option<u64>,
    publish_p99_us: Option<u64>,
    delivery_p50_us: Option<u64>,
    delivery_p99_us: Option<u64>,
}

#[derive(Serialize)]
struct NodeJson {
    id: String,
    /// Absent: the node did not respond, or has just started.
    newest: Option<SampleJson>,
}

/// The newest `seconds` samples of the cluster.
pub(super) async fn rates(data: &ConsoleData, seconds: u32) -> RatesJson {
    let local_samples = data.local.samples.newest(seconds);
    let now = local_samples.last().map(|sample| sample.second);
    let local = (data.overview.me, Some(local_samples));
    let from_peers = data.ask_peers(|mut client| async move {
        client.samples(pb::SamplesRequest { count_max: seconds }).await
    });
    let to_samples = |(node, response): (NodeId, Option<pb::SamplesResponse>)| {
        let samples = response.map(|it| it.samples.into_iter().map(Sample::from).collect());
        (node, samples.map(|samples| align(samples, now)))
    };
    let mut nodes: BTreeMap<NodeId, Option<Vec<Sample>>> =
        from_peers.await.into_iter().map(to_samples).collect();
    nodes.extend([local]);
    let newest = |(node, samples): (&NodeId, &Option<Vec<Sample>>)| NodeJson {
        id: node.to_string(),
        newest: samples.as_ref().and_then(|it| it.last()).map(|&it| it.into()),
    };
    let node_rows = nodes.iter().map(newest).collect();
    let samples = add_up(nodes.into_values().flatten(), seconds as usize);
    RatesJson { samples, nodes: node_rows }
}

/// Shifts the samples of a node whose clock differs from that of this one: its newest sample is of now, too.
fn align(mut samples: Vec<Sample>, now: Option<u64>) -> Vec<Sample> {
    let newest = samples.last().map(|sample| sample.second);
    if let Some((now, newest)) = now.zip(newest)
        && now.abs_diff(newest) > CLOCK_SKEW_MAX
    {
        for sample in &mut samples {
            sample.second = (sample.second + now).saturating_sub(newest);
        }
    }
    samples
}

/// Adds the samples of several nodes by second. A second that not every node has reached is left out: its sum would
/// be too small.
fn add_up(nodes: impl Iterator<Item = Vec<Sample>>, count_max: usize) -> Vec<SampleJson> {
    let nodes: Vec<_> = nodes.filter(|samples| !samples.is_empty()).collect();
    let newest = nodes.iter().filter_map(|samples| samples.last()).map(|it| it.second).min();
    let Some(newest) = newest else { return Vec::new() };
    let oldest = newest.saturating_sub(count_max as u64);
    let mut sums = BTreeMap::<u64, Sample>::new();
    for sample in nodes.into_iter().flatten() {
        if (oldest..=newest).contains(&sample.second) {
            add(sums.entry(sample.second).or_default(), sample);
        }
    }
    sums.into_values().map(SampleJson::from).collect()
}

fn add(sum: &mut Sample, sample: Sample) {
    let slowest = |a: Option<LatencySummary>, b: Option<LatencySummary>| match (a, b) {
        (Some(a), Some(b)) => {
            Some(LatencySummary { p50_us: a.p50_us.max(b.p50_us), p99_us: a.p99_us.max(b.p99_us) })
        }
        (a, b) => a.or(b),
    };
    *sum = Sample {
        second: sample.second,
        published: sum.published.saturating_add(sample.published),
        rejected: sum.rejected.saturating_add(sample.rejected),
        delivered: sum.delivered.saturating_add(sample.delivered),
        sent_bytes: sum.sent_bytes.saturating_add(sample.sent_bytes),
        sessions: sum.sessions.saturating_add(sample.sessions),
        subscriptions: sum.subscriptions.saturating_add(sample.subscriptions),
        publish: slowest(sum.publish, sample.publish),
        delivery: slowest(sum.delivery, sample.delivery),
    };
}

impl From<Sample> for SampleJson {
    fn from(sample: Sample) -> SampleJson {
        SampleJson {
            second: sample.second,
            published: sample.published,
            rejected: sample.rejected,
            delivered: sample.delivered,
            sent_bytes: sample.sent_bytes,
            sessions: sample.sessions,
            subscriptions: sample.subscriptions,
            publish_p50_us: sample.publish.map(|it| it.p50_us),
            publish_p99_us: sample.publish.map(|it| it.p99_us),
            delivery_p50_us: sample.delivery.map(|it| it.p50_us),
            delivery_p99_us: sample.delivery.map(|it| it.p99_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, published: u64, p99_us: u64) -> Sample {
        let publish = Some(LatencySummary { p50_us: 1, p99_us });
        Sample { second, published, publish, ..Sample::default() }
    }

    #[test]
    fn samples_of_a_node_with_another_time_are_those_of_now() {
        let seconds = |samples: Vec<Sample>, now| -> Vec<u64> {
            align(samples, now).iter().map(|sample| sample.second).collect()
        };
        let samples = || vec![sample(10, 0, 0), sample(11, 0, 0)];
        assert_eq!(seconds(samples(), Some(13)), [10, 11]);
        assert_eq!(seconds(samples(), Some(99)), [98, 99]);
        assert_eq!(seconds(samples(), Some(3)), [2, 3]);
        assert_eq!(seconds(samples(), None), [10, 11]);
        assert!(seconds(vec![], Some(3)).is_empty());
    }

    #[test]
    fn seconds_that_every_node_has_reached_are_added_and_the_slowest_node_is_shown() {
        let nodes = [
            vec![sample(1, 10, 5), sample(2, 20, 5), sample(3, 30, 5)],
            vec![sample(1, 1, 9), sample(2, 2, 3)],
            vec![],
        ];
        let sums = add_up(nodes.into_iter(), 600);
        let rows: Vec<_> =
            sums.iter().map(|it| (it.second, it.published, it.publish_p99_us)).collect();
        assert_eq!(rows, [(1, 11, Some(9)), (2, 22, Some(5))]);
    }
}
