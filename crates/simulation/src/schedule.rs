//! The schedule of a run: what happens to the cluster, and when.
//!
//! A schedule is text, one step a line: the time since the start of the phase of faults, and an [`Action`].
//!
//! ```
//! use pushonce_simulation::{Action, Schedule};
//!
//! let schedule: Schedule = "0.500 kill 1\n2.000 start 1\n".parse()?;
//! assert_eq!(schedule.steps[0].action, Action::Kill { node: 1 });
//! assert_eq!(schedule.to_string(), "0.500 kill 1\n2.000 start 1\n");
//! # Ok::<(), pushonce_simulation::ScheduleError>(())
//! ```

mod generate;
mod parse;

use std::fmt;
use std::time::Duration;

pub use generate::{FaultKind, Generator};
pub use parse::ScheduleError;

/// What happens to a cluster, in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One step of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The time since the start of the phase of faults, in whole milliseconds.
    pub at: Duration,
    /// What happens.
    pub action: Action,
}

/// A host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// The host of a node.
    Node(usize),
    /// The host of the clients.
    Clients,
}

/// An event in the world, or a command of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process of a node is killed. The system of its host goes on.
    Kill {
        /// The node.
        node: usize,
    },
    /// The host of a node loses its power, and with it some of its unsynced changes.
    CutPower {
        /// The node.
        node: usize,
    },
    /// As [`Action::CutPower`], when the node has begun this many changes and syncs of files.
    CutPowerAfter {
        /// The node.
        node: usize,
        /// The number of changes and syncs.
        operations: u32,
    },
    /// The process of a node is started, if it does not run.
    Start {
        /// The node.
        node: usize,
    },
    /// A node is requested to shut down.
    Stop {
        /// The node.
        node: usize,
    },
    /// The process of a node is stopped, as by SIGSTOP.
    Pause {
        /// The node.
        node: usize,
    },
    /// The machine of a node is suspended: it answers nothing, and its monotonic clock stands still.
    Suspend {
        /// The node.
        node: usize,
    },
    /// A stopped process or a suspended machine goes on.
    Resume {
        /// The node.
        node: usize,
    },
    /// Packets no longer get from one host to another. The way back is not affected.
    Cut {
        /// The sender.
        from: Endpoint,
        /// The receiver.
        to: Endpoint,
    },
    /// Packets get from one host to another again, as fast as usual.
    Restore {
        /// The sender.
        from: Endpoint,
        /// The receiver.
        to: Endpoint,
    },
    /// Packets from one host to another are slow, some are lost, or the capacity is small.
    Degrade {
        /// The sender.
        from: Endpoint,
        /// The receiver.
        to: Endpoint,
        /// The shortest time of a packet.
        latency_ms: u64,
        /// Packets that are lost, of 1,000.
        loss: u32,
        /// The capacity; 0 is unlimited.
        bytes_per_ms: u64,
    },
    /// The connections between two hosts are reset.
    Reset {
        /// One host.
        from: Endpoint,
        /// The other host.
        to: Endpoint,
    },
    /// One of the connections between two hosts transports nothing more, though it stays open.
    Stall {
        /// One host.
        from: Endpoint,
        /// The other host.
        to: Endpoint,
        /// Which of them, in the order in which they were opened.
        connection: u32,
    },
    /// The date of a host changes.
    StepClock {
        /// The node.
        node: usize,
        /// Forwards, or backwards.
        by_ms: i64,
    },
    /// The clocks of a host run faster or slower.
    Drift {
        /// The node.
        node: usize,
        /// By how much.
        ppm: i64,
    },
    /// The disk of a node has no space left.
    FillDisk {
        /// The node.
        node: usize,
    },
    /// The disk of a node has space again.
    FreeDisk {
        /// The node.
        node: usize,
    },
    /// Each sync of a node takes longer.
    SlowDisk {
        /// The node.
        node: usize,
        /// The shortest time of a sync.
        sync_ms: u64,
    },
    /// The next sync of a node fails.
    FailSync {
        /// The node.
        node: usize,
    },
    /// Some bits of the log file change. The node must not run.
    FlipBits {
        /// The node.
        node: usize,
        /// The place of the first among the bytes that are not zero, in millionths.
        place: u32,
    },
    /// The files of a node are copied, for [`Action::RestoreFiles`]. The node must not run.
    SaveFiles {
        /// The node.
        node: usize,
    },
    /// The files of a node become those that were copied. The node must not run.
    RestoreFiles {
        /// The node.
        node: usize,
    },
    /// Another build is installed on the host of a node, which its next start runs.
    Install {
        /// The node.
        node: usize,
        /// The newest cluster version that the build supports.
        version: u16,
    },
    /// The files of a node are deleted. The node must not run.
    Wipe {
        /// The node.
        node: usize,
    },
    /// The log and the identity of a node are deleted, but not the file by which its cluster knows the directory. The node
    /// must not run.
    DeleteLog {
        /// The node.
        node: usize,
    },
    /// A node listens for the others on another port, from its next start on. The others find it there.
    ChangeAddress {
        /// The node.
        node: usize,
    },
    /// A command of an operator.
    Operator(Command),
}

/// A command of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The history of a namespace has this many messages at most.
    History {
        /// The namespace.
        namespace: String,
        /// The number of messages.
        messages: u32,
    },
    /// A namespace gets another durability.
    Durability {
        /// The namespace.
        namespace: String,
        /// Whether it is kept in memory only.
        in_memory: bool,
    },
    /// The shards of a node move to others.
    Drain {
        /// The node.
        node: usize,
    },
    /// A node may have shards again.
    Undrain {
        /// The node.
        node: usize,
    },
    /// A node is removed from the cluster. It must be started on an empty disk afterwards.
    Remove {
        /// The node.
        node: usize,
    },
    /// A new node joins.
    Join,
    /// The cluster gets another longest election time, and leases of another length.
    ElectionMax {
        /// The longest election time.
        ms: u32,
    },
    /// The cluster version is raised, if every node supports the next one.
    Finalize,
}

impl Action {
    /// The node that the action affects, if it is one.
    pub fn node(&self) -> Option<usize> {
        match *self {
            Action::Kill { node }
            | Action::CutPower { node }
            | Action::CutPowerAfter { node, .. }
            | Action::Start { node }
            | Action::Stop { node }
            | Action::Pause { node }
            | Action::Suspend { node }
            | Action::Resume { node }
            | Action::StepClock { node, .. }
            | Action::Drift { node, .. }
            | Action::FillDisk { node }
            | Action::FreeDisk { node }
            | Action::SlowDisk { node, .. }
            | Action::FailSync { node }
            | Action::FlipBits { node, .. }
            | Action::SaveFiles { node }
            | Action::Install { node, .. }
            | Action::RestoreFiles { node }
            | Action::Wipe { node }
            | Action::DeleteLog { node }
            | Action::ChangeAddress { node } => Some(node),
            _ => None,
        }
    }

    /// The first word of its text, and of that of a command: `kill`, `drain`.
    pub fn name(&self) -> String {
        let text = self.to_string();
        let mut words = text.split(' ').filter(|&word| word != "operator");
        words.next().unwrap_or_default().to_owned()
    }

    /// Whether the files of a node are no longer those that it wrote.
    pub fn damages_files(&self) -> bool {
        matches!(
            self,
            Action::FlipBits { .. }
                | Action::RestoreFiles { .. }
                | Action::Wipe { .. }
                | Action::DeleteLog { .. }
                | Action::FailSync { .. }
        )
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} {}", self.at.as_secs(), self.at.subsec_millis(), self.action)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Node(node) => write!(f, "{node}"),
            Endpoint::Clients => f.write_str("clients"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Kill { node } => write!(f, "kill {node}"),
            Action::CutPower { node } => write!(f, "cut-power {node}"),
            Action::CutPowerAfter { node, operations } => {
                write!(f, "cut-power-after {node} {operations}")
            }
            Action::Start { node } => write!(f, "start {node}"),
            Action::Stop { node } => write!(f, "stop {node}"),
            Action::Pause { node } => write!(f, "pause {node}"),
            Action::Suspend { node } => write!(f, "suspend {node}"),
            Action::Resume { node } => write!(f, "resume {node}"),
            Action::Cut { from, to } => write!(f, "cut {from} {to}"),
            Action::Restore { from, to } => write!(f, "restore {from} {to}"),
            Action::Degrade { from, to, latency_ms, loss, bytes_per_ms } => {
                write!(f, "degrade {from} {to} {latency_ms} {loss} {bytes_per_ms}")
            }
            Action::Reset { from, to } => write!(f, "reset {from} {to}"),
            Action::Stall { from, to, connection } => write!(f, "stall {from} {to} {connection}"),
            Action::StepClock { node, by_ms } => write!(f, "step-clock {node} {by_ms}"),
            Action::Drift { node, ppm } => write!(f, "drift {node} {ppm}"),
            Action::FillDisk { node } => write!(f, "fill-disk {node}"),
            Action::FreeDisk { node } => write!(f, "free-disk {node}"),
            Action::SlowDisk { node, sync_ms } => write!(f, "slow-disk {node} {sync_ms}"),
            Action::FailSync { node } => write!(f, "fail-sync {node}"),
            Action::FlipBits { node, place } => write!(f, "flip-bits {node} {place}"),
            Action::SaveFiles { node } => write!(f, "save-files {node}"),
            Action::RestoreFiles { node } => write!(f, "restore-files {node}"),
            Action::Install { node, version } => write!(f, "install {node} {version}"),
            Action::Wipe { node } => write!(f, "wipe {node}"),
            Action::DeleteLog { node } => write!(f, "delete-log {node}"),
            Action::ChangeAddress { node } => write!(f, "change-address {node}"),
            Action::Operator(command) => write!(f, "operator {command}"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::History { namespace, messages } => write!(f, "history {namespace} {messages}"),
            Command::Durability { namespace, in_memory } => {
                let durability = if *in_memory { "memory" } else { "replicated" };
                write!(f, "durability {namespace} {durability}")
            }
            Command::Drain { node } => write!(f, "drain {node}"),
            Command::Undrain { node } => write!(f, "undrain {node}"),
            Command::Remove { node } => write!(f, "remove {node}"),
            Command::Join => f.write_str("join"),
            Command::ElectionMax { ms } => write!(f, "election-max {ms}"),
            Command::Finalize => f.write_str("finalize"),
        }
    }
}
