//! One fault after the other is done to a cluster of its own under load, and what the clients saw is
//! held against what was promised.
//!
//! A row is run so: a cluster starts and load begins (warm-up); the fault comes and goes until the
//! time is over (faults); load goes on for a while (recovery) and stops; every subscriber gets what
//! is left (drain); the logs are read from every node over every transport (reading). Then the
//! checker judges. A run in which the fault never took place, or which was hardly under load
//! meanwhile, is unknown.

mod failover;
mod load_stats;
mod planted_bugs;
mod report;
mod run;
mod table;
mod watchdog;

pub use failover::{FailoverTimes, measure_failovers};
pub use load_stats::LoadStats;
pub use planted_bugs::{PLANTED_BUGS, PlantedBug};
pub use report::{RunReport, RunVerdict, recheck};
pub use run::{Options, repeat_command, run};
pub use table::render_table;
pub use watchdog::Watchdog;

use crate::faults::{FaultScenario, LOOPBACK_SCENARIOS};
use crate::testbed::faults::{SOAK_SCENARIO, TESTBED_SCENARIOS};

/// Every row, in the order of the table.
pub fn scenarios() -> Vec<&'static FaultScenario> {
    LOOPBACK_SCENARIOS.iter().chain(TESTBED_SCENARIOS).collect()
}

/// The row of the name; the soak is one too, and not of the table.
pub fn scenario(name: &str) -> Option<&'static FaultScenario> {
    scenarios().into_iter().chain([&SOAK_SCENARIO]).find(|scenario| scenario.name == name)
}

/// The rows of the short tier: those that break most when something is wrong, a process, a disk and a
/// network.
pub const SHORT_TIER: &[&str] =
    &["none", "kill-owner", "kill-majority", "pause-owner", "power-one", "minority"];
