//! Keeps a node out of every group whose log is older than what it has told its peers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

/// Beside the store. A restart makes its log no newer, and the peers that know of the lost commits may be
/// away by then.
const FILE: &str = "rolled-back";

/// Keeps this node out of every group once it is closed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Arc<watch::Sender<Option<String>>>);

impl Fence {
    /// Closed from the beginning, if it was closed before in this directory.
    pub(crate) fn of(dir: &Path) -> Fence {
        let fence = Fence::default();
        if let Ok(reason) = fs::read_to_string(dir.join(FILE)) {
            fence.close(reason);
        }
        fence
    }

    /// Writes down in `dir` that it is closed, once it is.
    pub(crate) async fn keep(self, dir: PathBuf) {
        self.closed().await;
        let path = dir.join(FILE);
        if let Err(error) = fs::write(&path, self.reason().unwrap_or_default()) {
            tracing::error!(%error, path = %path.display(), "cannot be written");
        }
    }

    /// From now on this node takes no part. The first reason stays.
    pub(crate) fn close(&self, reason: String) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(reason);
            first
        });
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
