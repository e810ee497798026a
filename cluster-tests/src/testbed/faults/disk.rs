//! The owner's disk fails once, is slow, or is full.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::{TestHost, Testbed};
use super::counter;
use crate::EXIT_DISK_FAILED;
use crate::faults::{FaultContext, FaultEffect, FaultInjector, FaultState};
use crate::http_client;
use crate::wait::secs;

/// One fsync fails. The contents of the disk are then unknown, and the node must stop at once.
pub(super) struct FsyncError {
    target: DiskTarget,
    /// Number of failed writes of files without which the node continues to run.
    survived_failures: Option<u64>,
}

/// Every fsync takes longer.
pub(super) struct SlowFsync {
    target: DiskTarget,
    /// The number of delayed fsyncs before.
    delayed_before: u64,
}

/// The disk is full.
pub(super) struct FullDisk(DiskTarget);

/// The node whose disk is affected.
struct DiskTarget {
    testbed: Arc<Testbed>,
    node: Option<usize>,
}

/// The delay of a disk that is busy.
const SLOW_FSYNC_DELAY: Duration = Duration::from_millis(50);

impl FsyncError {
    pub(super) fn new(testbed: Arc<Testbed>) -> FsyncError {
        FsyncError { target: DiskTarget { testbed, node: None }, survived_failures: None }
    }
}

impl SlowFsync {
    pub(super) fn new(testbed: Arc<Testbed>) -> SlowFsync {
        SlowFsync { target: DiskTarget { testbed, node: None }, delayed_before: 0 }
    }
}

impl FullDisk {
    pub(super) fn new(testbed: Arc<Testbed>) -> FullDisk {
        FullDisk(DiskTarget { testbed, node: None })
    }
}

/// Number of failed writes of files without which the node continues to run: the list of peers is a hint, and
/// the node does not acknowledge consensus times that are not on disk. `None` when the node has ended.
async fn survived_write_failures(context: &FaultContext, node: usize) -> Option<u64> {
    let http = context.cluster.node(node).ports.http;
    let page = http_client::get(http, "/metrics", &[]).await.ok()?.body;
    let series = page.lines().filter(|line| line.starts_with("pushonce_data_write_errors_total{"));
    Some(series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

impl DiskTarget {
    /// Chooses the owner.
    async fn choose_owner(&mut self, context: &FaultContext) -> (usize, Arc<TestHost>) {
        let node = context.hot_topic_owner().await;
        self.node = Some(node);
        (node, self.testbed.host(node))
    }

    fn host(&self) -> Arc<TestHost> {
        self.testbed.host(self.node.expect("the fault was injected"))
    }
}

#[async_trait(?Send)]
impl FaultInjector for FsyncError {
    fn duration(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let (node, host) = self.target.choose_owner(context).await;
        self.survived_failures = survived_write_failures(context, node).await;
        host.shim.fail_fsyncs(1);
        Ok(FaultEffect::restart(vec![node]))
    }

    /// Confirmed when an fsync has failed and the node has stopped, as it must.
    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let (host, node) = (self.target.host(), self.target.node.expect("the fault was injected"));
        // One failure is requested, so it has happened when none is left.
        let failed_fsyncs = || u64::from(host.shim.fsyncs_to_fail() == 0);
        loop {
            let confirmed = counter::confirm_grows("failed fsync", 0, failed_fsyncs).await;
            if confirmed != FaultState::Active {
                return confirmed;
            }
            tokio::time::sleep(secs(1)).await;
            let failures = survived_write_failures(context, node).await;
            if failures.is_none() || failures == self.survived_failures {
                break;
            }
            self.survived_failures = failures;
            host.shim.fail_fsyncs(1);
        }
        let status = context.cluster.wait_exit(node).await;
        assert_eq!(
            status.code(),
            Some(EXIT_DISK_FAILED),
            "a failed fsync of the log stops the node"
        );
        FaultState::Active
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        let Some(node) = self.target.node.take() else { return };
        let shim = &self.target.testbed.host(node).shim;
        let has_failed = shim.fsyncs_to_fail() == 0;
        shim.fail_fsyncs(0);
        // Without a confirmation the node may still be ending.
        let failures = survived_write_failures(context, node).await;
        let is_exiting = has_failed && (failures.is_none() || failures == self.survived_failures);
        if is_exiting && context.cluster.node(node).is_running() {
            let status = context.cluster.wait_exit(node).await;
            assert_eq!(
                status.code(),
                Some(EXIT_DISK_FAILED),
                "a failed fsync of the log stops the node"
            );
        }
        context.restart_if_stopped(node);
    }
}

#[async_trait(?Send)]
impl FaultInjector for SlowFsync {
    fn duration(&self) -> Duration {
        secs(8)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let (node, host) = self.target.choose_owner(context).await;
        self.delayed_before = host.shim.delayed_fsyncs();
        host.shim.delay_fsyncs(SLOW_FSYNC_DELAY);
        Ok(FaultEffect::on_nodes(vec![node]))
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let host = self.target.host();
        counter::confirm_grows("slow fsync", self.delayed_before, || host.shim.delayed_fsyncs())
            .await
    }

    async fn heal(&mut self, _: &mut FaultContext) {
        if let Some(node) = self.target.node.take() {
            self.target.testbed.host(node).shim.delay_fsyncs(Duration::ZERO);
        }
    }
}

#[async_trait(?Send)]
impl FaultInjector for FullDisk {
    fn duration(&self) -> Duration {
        secs(6)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let (node, host) = self.0.choose_owner(context).await;
        host.fill_volume()?;
        // A leader without disk space rejects publishes, so publishing need not continue.
        Ok(FaultEffect { nodes: vec![node], ..FaultEffect::default() })
    }

    /// Confirmed when not a single block is free. The node may still have space in its existing files.
    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        match self.0.host().fill_volume() {
            Ok(0) => FaultState::Active,
            Ok(bytes) => {
                FaultState::Indeterminate(format!("there was space for {bytes} bytes again"))
            }
            Err(error) => FaultState::Indeterminate(error),
        }
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(node) = self.0.node.take() {
            self.0.testbed.host(node).free_volume().expect("remove the ballast file");
            context.restart_if_stopped(node);
        }
    }
}
