//! Excludes a node from all groups when its log is older than its peers know it to be.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pushonce_core::CoverageMark;
use tokio::sync::watch;

use crate::metrics;
use crate::store::rename_durably;

/// Stored beside the store. A restart does not restore the lost commits, and the peers that know of them may
/// be down by then.
const MARKER_FILE: &str = "rolled-back";
const MARKER_TEMP_FILE: &str = "rolled-back.new";

/// Excludes this node from every group once it is closed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Arc<watch::Sender<Option<String>>>);

/// The reason why the node with this data directory takes part in no group, if its log was found to be rolled
/// back to an earlier state. A marker file that cannot be read counts.
pub fn read_rollback_reason(dir: &Path) -> Option<String> {
    match fs::read_to_string(dir.join(MARKER_FILE)) {
        Ok(reason) => Some(reason),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{MARKER_FILE} cannot be read: {error}")),
    }
}

impl Fence {
    /// Loads the fence of a directory: closed if it was closed before.
    pub(crate) fn load(dir: &Path) -> Fence {
        let fence = Fence::default();
        if let Some(reason) = read_rollback_reason(dir) {
            tracing::error!(reason, "this node takes no part in any group");
            fence.close(reason);
        }
        fence
    }

    /// Waits until the fence is closed and stores the reason in `dir`.
    pub(crate) async fn persist_when_closed(self, dir: PathBuf) {
        self.closed().await;
        if read_rollback_reason(&dir).is_some() {
            return;
        }
        let (temp_path, path) = (dir.join(MARKER_TEMP_FILE), dir.join(MARKER_FILE));
        let result = fs::write(&temp_path, self.reason().unwrap_or_default());
        let result = result.and_then(|()| rename_durably(&temp_path, &path));
        if let Err(error) = result {
            tracing::error!(%error, path = %path.display(), "cannot record that the log of this node was rolled back");
        }
    }

    /// Closes the fence: this node takes part in no group from now on. The first reason is kept.
    pub(crate) fn close(&self, reason: String) {
        CoverageMark::RollbackDetected.reach();
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(reason);
            first
        });
        metrics::ROLLED_BACK.register_gauge(&[]).set(1.0);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until the fence is closed.
    pub(crate) async fn closed(&self) {
        // An error is impossible: the sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}
