//! One fault after the other is done to a cluster of its own under load, and what the clients saw is
//! held against what was promised.
//!
//! A row is run so: a cluster starts and load begins (warm-up); the fault comes and goes until the
//! time is over (faults); load goes on for a while (recovery) and stops; every subscriber gets what
//! is left (drain); the logs are read from every node over every transport (reading). Then the
//! checker judges. A run in which the fault never took place, or which was hardly under load
//! meanwhile, is unknown.

mod carried;
mod failover;
mod planted;
mod report;
mod run;
mod table;
mod watchdog;

pub use carried::Carried;
pub use failover::{Failovers, failovers};
pub use planted::{PLANTED, Planted};
pub use report::{Report, Verdict, again};
pub use run::{Options, command, run};
pub use table::table;
pub use watchdog::Watchdog;

use crate::faults::{ON_LOOPBACK, Row};
use crate::rig::faults::{ON_THE_RIG, SOAK};

/// Every row, in the order of the table.
pub fn rows() -> Vec<&'static Row> {
    ON_LOOPBACK.iter().chain(ON_THE_RIG).collect()
}

/// The row of the name; the soak is one too, and not of the table.
pub fn row(name: &str) -> Option<&'static Row> {
    rows().into_iter().chain([&SOAK]).find(|row| row.name == name)
}

/// The rows of the short tier: those that break most when something is wrong, a process, a disk and a
/// network.
pub const SHORT: &[&str] =
    &["none", "kill-owner", "kill-majority", "pause-owner", "power-one", "minority"];
