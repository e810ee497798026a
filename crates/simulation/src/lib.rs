//! Whole clusters in one process, on simulated time, networks and disks.
//!
//! # Overview
//!
//! A [run](run::run) starts a cluster of three or five nodes, puts it under the load of the cluster tests, carries out
//! a [`Schedule`] of faults and commands, waits until the cluster has recovered, and lets the checker of the cluster
//! tests judge what all clients observed. A [campaign](campaign::Campaign) does so for many seeds.
//!
//! The nodes are those of `pushonce serve`, with all their threads, listeners and files, and the clients are those of
//! the SDK. The simulation replaces the functions of the C library below them. The module `libc` defines symbols such as
//! `clock_gettime`, `epoll_wait`, `send` and `fdatasync`, which take precedence over those of the C library, and the
//! [`kernel`] answers. So the nodes have no seam for the simulation, and nothing in them can escape it.
//!
//! # Guarantees
//!
//! - Equal seeds give equal runs, bit for bit: [`run::RunRecord::trace`] is a hash of every event. A campaign compares
//!   the traces of repeated runs.
//! - Exactly one thread runs at a time; it gives up its turn where it would wait. One thread of the system executes all
//!   others on their stacks, because a switch by the system took a quarter of the time.
//! - A killed process does nothing more: its threads never run again, and its connections and files are closed.
//!
//! # Non-goals
//!
//! Other tests cover these parts:
//!
//! | not simulated | tested by |
//! |---|---|
//! | the kernel's TCP, its buffers and limits | the cluster tests, `scripts/faults` on network namespaces |
//! | a real fsync, ext4, a real loss of power | `scripts/faults`, rows `power-cut-…` |
//! | TLS between nodes and to clients | the tests of `peer` and `tls`, `cluster-tests/tests/node_certificates.rs` |
//! | QUIC and its congestion control: datagrams are lost | the tests of `quic`, `cluster-tests` |
//! | threads that really run at the same time, and data races | the cluster tests; no crate contains unsafe code |
//! | memory limits and descriptor limits | `cluster-tests/tests/descriptor_exhaustion.rs` |
//! | recovery without a majority, which may lose acknowledged messages | `cluster-tests/tests/majority_loss_recovery.rs`, the tests of `consensus` |
//! | peers that lie, and clients that send rubbish | the tests of `relay` and `consensus`, `cluster-tests/tests/hostile_….rs` |
//! | lost, repeated and reordered packets as such: TCP hides them, only the delay remains | the tests of `quic`, `scripts/faults` |
//!
//! # Data flow
//!
//! Seed → [`RunPlan`] → [`run::run`] → history → [`verdict::Verdict`] → [`campaign::Summary`]. Within a run the
//! [`nemesis`] changes the [`kernel`] and the [`cluster`], and the nodes notice through their system calls.
//!
//! # Caller contract
//!
//! One run per process: global state of the standard library and of dependencies belongs to the run. The program ends
//! with [`exit_now`], because threads of killed processes are still blocked. Linux on x86-64 or AArch64 only.

pub mod campaign;
pub mod cluster;
pub mod kernel;
mod libc;
pub mod nemesis;
pub mod operator;
mod pin;
mod plan;
mod process;
pub mod run;
mod schedule;
pub mod shrink;
pub mod verdict;

pub use libc::memory::use_one_arena;
pub use libc::real::exit_now;
pub use libc::turn::disable_fibers;
pub use pin::pin_to_core;
pub use plan::RunPlan;
pub use schedule::{
    Action, Command, Endpoint, FaultKind, Generator, Schedule, ScheduleError, Step,
};
