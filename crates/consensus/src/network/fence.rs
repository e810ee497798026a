//! Keeps a node out of every group whose log is older than what it has told its peers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::metrics;
use crate::store::rename_durably;

/// Beside the store. A restart does not bring the lost commits back, and the peers that know of them may be
/// away by then.
const MARKER_FILE: &str = "rolled-back";
const MARKER_TEMP_FILE: &str = "rolled-back.new";

/// Keeps this node out of every group once it is closed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Arc<watch::Sender<Option<String>>>);

/// Why the node with this data directory takes part in no group, if it was found out that its log had been
/// put back to an earlier state. A file that cannot be read counts.
pub fn read_rollback_reason(dir: &Path) -> Option<String> {
    match fs::read_to_string(dir.join(MARKER_FILE)) {
        Ok(reason) => Some(reason),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{MARKER_FILE} cannot be read: {error}")),
    }
}

impl Fence {
    /// Closed from the beginning, if it was closed before in this directory.
    pub(crate) fn load(dir: &Path) -> Fence {
        let fence = Fence::default();
        if let Some(reason) = read_rollback_reason(dir) {
            tracing::error!(reason, "this node takes no part in any group");
            fence.close(reason);
        }
        fence
    }

    /// Writes down in `dir` that it is closed, once it is.
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

    /// From now on this node takes no part. The first reason stays.
    pub(crate) fn close(&self, reason: String) {
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

    /// Waits until it is closed.
    pub(crate) async fn closed(&self) {
        // The sender lives as long as this does.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}
