//! The owner's disk fails once, is slow, or is full.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::{Berth, Rig};
use super::watch;
use crate::DISK_FAILED;
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// One fsync fails. What is on the disk is not known then: the node must stop at once.
pub(super) struct FsyncError {
    hit: Hit,
    /// Number of failed writes of files without which the node continues to run.
    failed_files: usize,
}

/// Every fsync takes longer.
pub(super) struct SlowFsync {
    hit: Hit,
    /// How many were slow before.
    delayed: u64,
}

/// There is no room.
pub(super) struct Full(Hit);

/// Whose disk it is.
struct Hit {
    rig: Arc<Rig>,
    node: Option<usize>,
}

/// A disk that is busy with something else.
const SLOW: Duration = Duration::from_millis(50);

impl FsyncError {
    pub(super) fn new(rig: Arc<Rig>) -> FsyncError {
        FsyncError { hit: Hit { rig, node: None }, failed_files: 0 }
    }
}

impl SlowFsync {
    pub(super) fn new(rig: Arc<Rig>) -> SlowFsync {
        SlowFsync { hit: Hit { rig, node: None }, delayed: 0 }
    }
}

impl Full {
    pub(super) fn new(rig: Arc<Rig>) -> Full {
        Full(Hit { rig, node: None })
    }
}

/// Number of failed writes of files without which the node continues to run: the list of peers is a hint, and
/// the node does not acknowledge consensus times that are not on disk.
fn failed_files(stage: &Stage, node: usize) -> usize {
    let log = stage.cluster.node(node).log();
    let survived = ["cannot write the last known peers", "cannot write the consensus times"];
    survived.iter().map(|line| log.matches(line).count()).sum()
}

impl Hit {
    /// Chooses the owner.
    async fn choose(&mut self, stage: &Stage) -> (usize, Arc<Berth>) {
        let node = stage.owner().await;
        self.node = Some(node);
        (node, self.rig.berth(node))
    }

    fn berth(&self) -> Arc<Berth> {
        self.rig.berth(self.node.expect("it was injected"))
    }
}

#[async_trait(?Send)]
impl Fault for FsyncError {
    fn hold(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let (node, berth) = self.hit.choose(stage).await;
        self.failed_files = failed_files(stage, node);
        berth.shim.fail_fsyncs(1);
        Ok(Effect::restart(vec![node]))
    }

    /// The fault is there when an fsync has failed; what the node has to do then is part of it.
    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let (berth, node) = (self.hit.berth(), self.hit.node.expect("it was injected"));
        // It is told once, so that none is left to fail means that one has failed.
        let failed = || u64::from(berth.shim.fsyncs_to_fail() == 0);
        loop {
            let confirmed = watch::grows("failed fsync", 0, failed).await;
            if confirmed != Confirmed::Installed {
                return confirmed;
            }
            tokio::time::sleep(secs(1)).await;
            let now = failed_files(stage, node);
            if now == std::mem::replace(&mut self.failed_files, now) {
                break;
            }
            berth.shim.fail_fsyncs(1);
        }
        let status = stage.cluster.ended(node).await;
        assert_eq!(status.code(), Some(DISK_FAILED), "a failed fsync of the log stops the node");
        Confirmed::Installed
    }

    async fn heal(&mut self, stage: &mut Stage) {
        let Some(node) = self.hit.node.take() else { return };
        let shim = &self.hit.rig.berth(node).shim;
        let has_failed = shim.fsyncs_to_fail() == 0;
        shim.fail_fsyncs(0);
        // Without a confirmation the node may still be ending.
        let is_dying = has_failed && failed_files(stage, node) == self.failed_files;
        if is_dying && stage.cluster.node(node).runs() {
            let status = stage.cluster.ended(node).await;
            assert_eq!(
                status.code(),
                Some(DISK_FAILED),
                "a failed fsync of the log stops the node"
            );
        }
        stage.restart(node);
    }
}

#[async_trait(?Send)]
impl Fault for SlowFsync {
    fn hold(&self) -> Duration {
        secs(8)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let (node, berth) = self.hit.choose(stage).await;
        self.delayed = berth.shim.delayed_fsyncs();
        berth.shim.delay_fsyncs(SLOW);
        Ok(Effect::on(vec![node]))
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let berth = self.hit.berth();
        watch::grows("slow fsync", self.delayed, || berth.shim.delayed_fsyncs()).await
    }

    async fn heal(&mut self, _: &mut Stage) {
        if let Some(node) = self.hit.node.take() {
            self.hit.rig.berth(node).shim.delay_fsyncs(Duration::ZERO);
        }
    }
}

#[async_trait(?Send)]
impl Fault for Full {
    fn hold(&self) -> Duration {
        secs(6)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let (node, berth) = self.0.choose(stage).await;
        berth.fill()?;
        // Whoever leads a shard and has no room refuses: publishing need not go on.
        Ok(Effect { nodes: vec![node], ..Effect::default() })
    }

    /// Not one block more is to be had. The node itself may have room left in the files it has.
    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        match self.0.berth().fill() {
            Ok(0) => Confirmed::Installed,
            Ok(room) => Confirmed::Indeterminate(format!("there was room for {room} bytes again")),
            Err(why) => Confirmed::Indeterminate(why),
        }
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(node) = self.0.node.take() {
            self.0.rig.berth(node).free().expect("the ballast can be removed");
            stage.restart(node);
        }
    }
}
