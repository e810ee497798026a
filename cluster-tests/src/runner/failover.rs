//! Measures how long publishing stops after the owner's death, and how long a restarted node needs to catch
//! up.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pushonce_core::Position;

use crate::cluster::ProcessCluster;
use crate::http_client;
use crate::load::topic_head;
use crate::publish_load::text_message;
use crate::wait::secs;

/// The measured times of each kill.
#[derive(Default)]
pub struct FailoverTimes {
    /// From the kill to the first acknowledgement, by another node, of a publish that began after it.
    accepted: Vec<Duration>,
    /// From the restart of the killed process until it is ready and has all acknowledged messages.
    caught_up: Vec<Duration>,
    /// From the restart of all three nodes, killed at once, until each is ready and has caught up.
    cold_start: Vec<Duration>,
}

/// The number of owner kills per kill of all nodes.
const KILLS_PER_COLD_START: usize = 4;

/// Kills the owner of a topic `kills` times, and then all nodes a quarter as often, in a cluster of three
/// nodes that has the machine to itself.
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
    // Another topic each time, because shards differ in their owner and successor.
    let topic = format!("failover/{number}");
    let owner = cluster.owner_of(&topic).await;
    let publisher = cluster.publisher((owner + 1) % 3);
    publisher
        .publish(text_message(&topic, "before"))
        .await
        .expect("a healthy cluster acknowledges");

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
    // A node that failed repeatedly gets no leadership for a while, so the owner of the next topic is the
    // next to be killed. Only the links need to be connected again.
    tokio::time::sleep(secs(2)).await;
}

async fn kill_all(cluster: &mut ProcessCluster, round: usize) -> Duration {
    let topic = format!("cold/{round}");
    let acknowledgement = cluster.publisher(0).publish(text_message(&topic, "before")).await;
    let position = acknowledgement.expect("a healthy cluster acknowledges").position;
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
        assert!(started.elapsed() < secs(60), "node {node} did not catch up within 60 s");
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
        writeln!(
            f,
            "publishing resumed within 2 s: {within_2s} of {} kills\n",
            self.accepted.len()
        )?;
        writeln!(f, "| after kill -9 of the owner | min | p50 | p90 | p99 | max |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (name, times) in [
            ("publishing is accepted", &self.accepted),
            ("restarted: ready and caught up", &self.caught_up),
            ("all killed and restarted: each ready and caught up", &self.cold_start),
        ] {
            writeln!(f, "| {name} | {} |", quantiles(times))?;
        }
        Ok(())
    }
}

/// Quantiles by nearest rank, in seconds.
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
