//! How long nobody can publish after an owner's death, and how long it takes to be level again.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pushonce_core::Position;

use crate::cluster::Cluster;
use crate::load::head;
use crate::origin::text;
use crate::wait::secs;
use crate::web;

/// What was measured of each kill.
#[derive(Default)]
pub struct Failovers {
    /// From the kill to the first acknowledgement of a publish that was begun after it, by another node.
    accepted: Vec<Duration>,
    /// From the start of the killed process to its readiness, with all that was acknowledged meanwhile.
    level: Vec<Duration>,
    /// From the start of all three, killed in one moment, until each is ready and level.
    cold: Vec<Duration>,
}

/// All nodes are killed once for so many owners.
const COLD_STARTS: usize = 4;

/// Kills the owner of a topic so many times, and then all nodes, in a cluster of three that has the
/// machine for itself.
pub async fn failovers(kills: usize, dir: PathBuf) -> Failovers {
    let mut cluster = Cluster::of(3).home(dir).start().await;
    let mut measured = Failovers::default();
    for number in 0..kills {
        kill_owner(&mut cluster, number, &mut measured).await;
    }
    for number in 0..kills / COLD_STARTS {
        measured.cold.push(kill_all(&mut cluster, number).await);
    }
    measured
}

async fn kill_owner(cluster: &mut Cluster, number: usize, measured: &mut Failovers) {
    // Another topic each time: shards differ in who owns them and who comes next.
    let topic = format!("failover/{number}");
    let owner = cluster.owner(&topic).await;
    let publisher = cluster.publisher((owner + 1) % 3);
    publisher.publish(text(&topic, "before")).await.expect("a whole cluster takes it");

    cluster.kill(owner);
    let killed = Instant::now();
    let placed = loop {
        match publisher.publish(text(&topic, "after")).await {
            Ok(placed) => break placed,
            Err(why) => assert!(killed.elapsed() < secs(60), "{topic}: {why}"),
        }
    };
    measured.accepted.push(killed.elapsed());

    cluster.restart(owner);
    let started = Instant::now();
    level(cluster, owner, &topic, placed.position, started).await;
    measured.level.push(started.elapsed());
    // A node that fell again and again is not handed the lead for a while: whoever owns the next topic
    // is the next to fall. Only the links have to stand.
    tokio::time::sleep(secs(2)).await;
}

async fn kill_all(cluster: &mut Cluster, number: usize) -> Duration {
    let topic = format!("cold/{number}");
    let placed = cluster.publisher(0).publish(text(&topic, "before")).await;
    let wanted = placed.expect("a whole cluster takes it").position;
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    let started = Instant::now();
    for node in 0..3 {
        level(cluster, node, &topic, wanted, started).await;
    }
    started.elapsed()
}

async fn level(cluster: &Cluster, node: usize, topic: &str, wanted: Position, started: Instant) {
    while !is_level(cluster, node, topic, wanted).await {
        assert!(started.elapsed() < secs(60), "node {node} does not become level");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn is_level(cluster: &Cluster, node: usize, topic: &str, wanted: Position) -> bool {
    let ports = cluster.ports(node);
    let ready = web::get(ports.http, "/health/ready", &[]).await;
    ready.is_ok_and(|answer| answer.status == 200)
        && head(ports, topic).await.is_ok_and(|head| head >= wanted)
}

impl fmt::Display for Failovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = self.accepted.iter().filter(|&&took| took <= secs(2)).count();
        writeln!(f, "accepted again within 2 s: {within} of {} kills\n", self.accepted.len())?;
        writeln!(f, "| after kill -9 of the owner | min | p50 | p90 | p99 | max |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (what, times) in [
            ("publishing is accepted", &self.accepted),
            ("restarted: ready and level", &self.level),
            ("all killed and restarted: each ready and level", &self.cold),
        ] {
            writeln!(f, "| {what} | {} |", quantiles(times))?;
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
    fn quantiles_are_of_the_nearest_rank() {
        let times: Vec<_> = (1..=100).rev().map(secs).collect();
        assert_eq!(quantiles(&times), "1.00 s | 50.00 s | 90.00 s | 99.00 s | 100.00 s");
        assert_eq!(quantiles(&times[..1]), "100.00 s | 100.00 s | 100.00 s | 100.00 s | 100.00 s");
    }
}
