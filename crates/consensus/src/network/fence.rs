//! Keeps a node out of every group whose log is older than what it has told its peers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::store::put_in_place;

/// Beside the store. A restart does not bring the lost commits back, and the peers that know of them may be
/// away by then.
const FILE: &str = "rolled-back";
const DRAFT: &str = "rolled-back.new";

/// Keeps this node out of every group once it is closed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Arc<watch::Sender<Option<String>>>);

/// Why the node with this data directory takes part in no group, if it was found out that its log had been
/// put back to an earlier state. A file that cannot be read counts.
pub fn rolled_back_in(dir: &Path) -> Option<String> {
    match fs::read_to_string(dir.join(FILE)) {
        Ok(reason) => Some(reason),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{FILE} cannot be read: {error}")),
    }
}

impl Fence {
    /// Closed from the beginning, if it was closed before in this directory.
    pub(crate) fn of(dir: &Path) -> Fence {
        let fence = Fence::default();
        if let Some(reason) = rolled_back_in(dir) {
            tracing::error!(reason, "this node takes no part in any group");
            fence.close(reason);
        }
        fence
    }

    /// Writes down in `dir` that it is closed, once it is.
    pub(crate) async fn keep(self, dir: PathBuf) {
        self.closed().await;
        if rolled_back_in(&dir).is_some() {
            return;
        }
        let (draft, path) = (dir.join(DRAFT), dir.join(FILE));
        let written = fs::write(&draft, self.reason().unwrap_or_default());
        let written = written.and_then(|()| put_in_place(&draft, &path));
        if let Err(error) = written {
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
        metrics::gauge!("pushonce_rolled_back").set(1.0);
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
