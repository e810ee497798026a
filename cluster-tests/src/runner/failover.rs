//! How long nobody can publish after an owner's death, and how long it takes to be level again.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pushonce_core::Position;

use crate::cluster::ProcessCluster;
use crate::http_client;
use crate::load::topic_head;
use crate::publish_load::text_message;
use crate::wait::secs;

/// What was measured of each kill.
#[derive(Default)]
pub struct FailoverTimes {
    /// From the kill to the first acknowledgement of a publish that was begun after it, by another node.
    accepted: Vec<Duration>,
    /// From the start of the killed process to its readiness, with all that was acknowledged meanwhile.
    caught_up: Vec<Duration>,
    /// From the start of all three, killed in one moment, until each is ready and level.
    cold_start: Vec<Duration>,
}

/// All nodes are killed once for so many owners.
const KILLS_PER_COLD_START: usize = 4;

/// Kills the owner of a topic so many times, and then all nodes, in a cluster of three that has the
/// machine for itself.
pub async fn measure_failovers(kills: usize, dir: PathBuf) -> FailoverTimes {
    let mut cluster = ProcessCluster::with_nodes(3).dir(dir).start().await;
    let mut times = FailoverTimes::default();
    for number in 0..kills {
        kill_owner(&mut cluster, number, &mut times).await;
    }
    for number in 0..kills / KILLS_PER_COLD_START {
        times.cold_start.push(kill_all(&mut cluster, number).await);
    }
    times
}

async fn kill_owner(cluster: &mut ProcessCluster, number: usize, times: &mut FailoverTimes) {
    // Another topic each time: shards differ in who owns them and who comes next.
    let topic = format!("failover/{number}");
    let owner = cluster.owner_of(&topic).await;
    let publisher = cluster.publisher((owner + 1) % 3);
    publisher.publish(text_message(&topic, "before")).await.expect("a whole cluster takes it");

    cluster.kill(owner);
    let killed = Instant::now();
    let acknowledgement = loop {
        match publisher.publish(text_message(&topic, "after")).await {
            Ok(acknowledgement) => break acknowledgement,
            Err(error) => assert!(killed.elapsed() < secs(60), "{topic}: {error}"),
        }
    };
    times.accepted.push(killed.elapsed());

    cluster.restart(owner);
    let started = Instant::now();
    wait_caught_up(cluster, owner, &topic, acknowledgement.position, started).await;
    times.caught_up.push(started.elapsed());
    // A node that fell again and again is not handed the lead for a while: whoever owns the next topic
    // is the next to fall. Only the links have to stand.
    tokio::time::sleep(secs(2)).await;
}

async fn kill_all(cluster: &mut ProcessCluster, round: usize) -> Duration {
    let topic = format!("cold/{round}");
    let acknowledgement = cluster.publisher(0).publish(text_message(&topic, "before")).await;
    let position = acknowledgement.expect("a whole cluster takes it").position;
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    let started = Instant::now();
    for node in 0..3 {
        wait_caught_up(cluster, node, &topic, position, started).await;
    }
    started.elapsed()
}

async fn wait_caught_up(
    cluster: &ProcessCluster,
    node: usize,
    topic: &str,
    position: Position,
    started: Instant,
) {
    while !is_caught_up(cluster, node, topic, position).await {
        assert!(started.elapsed() < secs(60), "node {node} does not become level");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn is_caught_up(
    cluster: &ProcessCluster,
    node: usize,
    topic: &str,
    position: Position,
) -> bool {
    let ports = cluster.ports(node);
    let ready = http_client::get(ports.http, "/health/ready", &[]).await;
    ready.is_ok_and(|answer| answer.status == 200)
        && topic_head(ports, topic).await.is_ok_and(|head| head >= position)
}

impl fmt::Display for FailoverTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within_2s = self.accepted.iter().filter(|&&took| took <= secs(2)).count();
        writeln!(f, "accepted again within 2 s: {within_2s} of {} kills\n", self.accepted.len())?;
        writeln!(f, "| after kill -9 of the owner | min | p50 | p90 | p99 | max |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (name, times) in [
            ("publishing is accepted", &self.accepted),
            ("restarted: ready and level", &self.caught_up),
            ("all killed and restarted: each ready and level", &self.cold_start),
        ] {
            writeln!(f, "| {name} | {} |", quantiles(times))?;
        }
        Ok(())
    }
}

/// Nearest rank, in seconds.
fn quantiles(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    let mut text = String::new();
    for (n, quantile) in [0.0, 0.5, 0.9, 0.99, 1.0].into_iter().enumerate() {
        let rank = (quantile * times.len() as f64).ceil() as usize;
        let time = times.get(rank.max(1) - 1).map_or(0.0, Duration::as_secs_f64);
        let _ = write!(text, "{}{time:.2} s", if n > 0 { " | " } else { "" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_use_the_nearest_rank() {
        let times: Vec<_> = (1..=100).rev().map(secs).collect();
        assert_eq!(quantiles(&times), "1.00 s | 50.00 s | 90.00 s | 99.00 s | 100.00 s");
        assert_eq!(quantiles(&times[..1]), "100.00 s | 100.00 s | 100.00 s | 100.00 s | 100.00 s");
    }
}
