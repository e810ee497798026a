//! Injects one fault after the other, each into a cluster of its own under load, and checks the clients'
//! observations against the guarantees.
//!
//! A run has these phases: a cluster starts and load begins (warm-up); the fault is injected and healed
//! repeatedly until the time is over (faults); load continues for a while (recovery) and stops; every
//! subscriber receives the remaining messages (drain); the logs are read from every node over every transport
//! (reading). Then the checker evaluates the history. A run is unknown if the fault never took place or if
//! there was hardly any load during it.

mod completion;
mod failover;
mod load_stats;
mod planted_bugs;
mod report;
mod run;
mod table;
mod watchdog;

pub use completion::{LogReaders, all_caught_up, wait_caught_up};
pub use failover::{FailoverTimes, measure_failovers};
pub use load_stats::LoadStats;
pub use planted_bugs::{PLANTED_BUGS, PlantedBug, SIMULATED};
pub use report::{RunReport, RunVerdict, recheck};
pub use run::{Options, repeat_command, run};
pub use table::render_table;
pub use watchdog::Watchdog;

use crate::faults::{FaultScenario, LOOPBACK_SCENARIOS};
use crate::testbed::faults::{SOAK_SCENARIO, TESTBED_SCENARIOS};

/// All rows, in the order of the table.
pub fn scenarios() -> Vec<&'static FaultScenario> {
    LOOPBACK_SCENARIOS.iter().chain(TESTBED_SCENARIOS).collect()
}

/// The scenario with this name, including the soak, which is not in the table.
pub fn scenario(name: &str) -> Option<&'static FaultScenario> {
    scenarios().into_iter().chain([&SOAK_SCENARIO]).find(|scenario| scenario.name == name)
}

/// The rows of the short tier: real processes without a fault, with a real disk and with a real network. The
/// simulation has the faults of processes, in far more states.
pub const SHORT_TIER: &[&str] = &["no-fault", "power-cut-owner", "partition-owner"];
