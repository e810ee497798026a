//! The plan of a run: everything that it follows from.
//!
//! A plan is text. The lines before the [`Schedule`] describe the cluster and the load; all but the seed may be left out.
//!
//! ```
//! use pushonce_simulation::RunPlan;
//!
//! let text = "seed 7\nnodes 3\nwithout burst\n1.000 kill 0\n4.500 start 0\n";
//! let plan: RunPlan = text.parse()?;
//! assert_eq!((plan.nodes, plan.length.as_secs(), plan.schedule.steps.len()), (3, 5, 2));
//! assert_eq!(plan.to_string().parse(), Ok(plan));
//! # Ok::<(), pushonce_simulation::ScheduleError>(())
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::load::{SubscriberKind, WorkloadPlan};
use pushonce_core::VersionRange;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::schedule::{Generator, Schedule, ScheduleError};

/// What a run is made of. Everything follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPlan {
    /// The seed of all random choices.
    pub seed: u64,
    /// The number of nodes at the start.
    pub nodes: usize,
    /// Whether all nodes begin with the build before the newest.
    pub is_old_build: bool,
    /// The length of the phase of faults, in whole seconds.
    pub length: Duration,
    /// The interval between two publishes of a publisher, in whole milliseconds.
    pub publish_interval: Duration,
    /// The largest payload.
    pub payload_bytes_max: usize,
    /// The participants of the load that are left out.
    pub excluded: BTreeSet<String>,
    /// What happens during the phase of faults.
    pub schedule: Schedule,
}

/// The largest payload of most runs.
const PAYLOAD_BYTES_MAX: usize = 120;

/// The topics of the load. Those of `pulse` are in memory at first.
const TOPICS: [&str; 4] = ["hot", "game/0", "game/1", "pulse/0"];

impl RunPlan {
    /// The plan that a seed stands for.
    pub fn from_seed(seed: u64) -> RunPlan {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = [3, 3, 3, 3, 5][random.random_range(0..5)];
        // Few runs are dense, because they take long: several messages of a stream are in flight, and a short history is
        // replaced while it is read.
        let is_dense = random.random_bool(0.1);
        let length = Duration::from_secs(random.random_range(5..=if is_dense { 10 } else { 25 }));
        let interval_ms = if is_dense { 15..40 } else { 200..1_200 };
        let publish_interval = Duration::from_millis(random.random_range(interval_ms));
        let is_old_build = random.random_bool(0.25) && VersionRange::HAS_TEST_VERSIONS;
        let generator = Generator::new(random.random(), nodes, length, is_old_build);
        let schedule = generator.generate();
        // With large payloads a snapshot has several pieces, and a file needs more space now and then.
        let installs_snapshots = schedule.steps.iter().any(|step| step.action.damages_files());
        let is_large = random.random_bool(if installs_snapshots { 0.5 } else { 0.2 });
        let payload_bytes_max = if is_large && !is_dense { 32 << 10 } else { PAYLOAD_BYTES_MAX };
        let mut excluded = BTreeSet::new();
        // A burst costs more than everything else together.
        if random.random_bool(0.8) {
            excluded.insert("burst".to_owned());
        }
        if random.random_bool(0.5) {
            excluded.insert("forger".to_owned());
        }
        RunPlan {
            seed,
            nodes,
            is_old_build,
            length,
            publish_interval,
            payload_bytes_max,
            excluded,
            schedule,
        }
    }

    /// The names of all participants of the load.
    pub fn participants(&self) -> Vec<String> {
        self.workload().participants(self.nodes)
    }

    /// The load.
    pub fn workload(&self) -> WorkloadPlan {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0x10AD);
        let kinds = [
            SubscriberKind::Raw(Transport::Ws),
            SubscriberKind::Raw(Transport::Grpc),
            SubscriberKind::Sdk(Transport::Ws),
            SubscriberKind::Sdk(Transport::Grpc),
        ];
        WorkloadPlan {
            topics: TOPICS.map(str::to_owned).to_vec(),
            publish_interval: self.publish_interval,
            payload_bytes_max: self.payload_bytes_max,
            probe_interval: Duration::from_secs(1),
            subscribers: kinds.into_iter().choose_multiple(&mut random, 2),
            excluded: self.excluded.clone(),
            ..WorkloadPlan::new(self.seed)
        }
    }
}

impl fmt::Display for RunPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let build = if self.is_old_build { "old" } else { "newest" };
        writeln!(f, "seed {}\nnodes {}\nbuild {build}", self.seed, self.nodes)?;
        writeln!(f, "seconds {}", self.length.as_secs())?;
        writeln!(f, "interval-ms {}", self.publish_interval.as_millis())?;
        writeln!(f, "payload {}", self.payload_bytes_max)?;
        self.excluded.iter().try_for_each(|name| writeln!(f, "without {name}"))?;
        self.schedule.fmt(f)
    }
}

impl FromStr for RunPlan {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<RunPlan, ScheduleError> {
        let mut plan = RunPlan {
            seed: 0,
            nodes: 3,
            is_old_build: false,
            length: Duration::ZERO,
            publish_interval: Duration::from_millis(500),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            excluded: BTreeSet::new(),
            schedule: Schedule::default(),
        };
        // Lines that were read are comments of the schedule, so that its errors name the right line.
        let mut schedule = String::new();
        for (index, line) in text.lines().enumerate() {
            let is_read = plan.read_line(line).map_err(|reason| {
                let (line, reason) = (index + 1, reason.to_owned());
                ScheduleError { line, reason }
            })?;
            schedule += if is_read { "#" } else { line };
            schedule.push('\n');
        }
        plan.schedule = schedule.parse()?;
        if plan.length.is_zero() {
            let last = plan.schedule.steps.last().map_or(Duration::ZERO, |step| step.at);
            plan.length = Duration::from_secs(last.as_secs() + 1);
        }
        Ok(plan)
    }
}

impl RunPlan {
    /// Reads a line about the cluster or the load; false for any other line.
    fn read_line(&mut self, line: &str) -> Result<bool, &'static str> {
        let Some((word, value)) = line.trim().split_once(' ') else { return Ok(false) };
        match word {
            "seed" => self.seed = value.parse().map_err(|_| "the seed must be a number")?,
            "nodes" => {
                let nodes = value.parse().ok().filter(|nodes| (1..=9).contains(nodes));
                self.nodes = nodes.ok_or("a cluster has 1 to 9 nodes")?;
            }
            "build" => {
                self.is_old_build = match value {
                    "old" => true,
                    "newest" => false,
                    _ => return Err("the build is `old` or `newest`"),
                }
            }
            "seconds" => {
                let seconds = value.parse().map_err(|_| "the length is a number of seconds")?;
                self.length = Duration::from_secs(seconds);
            }
            "interval-ms" => {
                let ms = value.parse().ok().filter(|&ms| ms > 0);
                let ms = ms.ok_or("the interval is a number of milliseconds")?;
                self.publish_interval = Duration::from_millis(ms);
            }
            "payload" => {
                let bytes = value.parse().ok().filter(|bytes| (1..=64 << 10).contains(bytes));
                self.payload_bytes_max = bytes.ok_or("a payload has 1 to 65536 bytes")?;
            }
            "without" => _ = self.excluded.insert(value.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_is_read_from_its_text() {
        for seed in 0..500 {
            let plan = RunPlan::from_seed(seed);
            let read: RunPlan = plan.to_string().parse().unwrap();
            assert_eq!(read, plan, "seed {seed}");
        }
    }

    #[test]
    fn malformed_line_is_named() {
        let error = |text: &str| text.parse::<RunPlan>().unwrap_err();
        assert_eq!(error("seed 1\nnodes 10\n").line, 2);
        assert_eq!(error("seed 1\n\n1.0 jump 3\n").line, 3);
        assert_eq!(
            error("seed 1\nnodes 3\n1.0 kill x\n").reason,
            "`x` is not the number of a node"
        );
        assert_eq!(error("1.0 kill 1 2\n").reason, "unexpected `2`");
    }
}
