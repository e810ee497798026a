//! Tells the cluster that this node is here, and notices when the cluster has it no more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pushonce_control::{AskError, Control, Refusal};
use pushonce_core::{ClusterView, NodeId};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::enter::{self, Entry};
use super::identity::DataDir;
use super::membership::{self, Expelled};

/// Between two tries to tell the cluster; each try waits some seconds for a leader by itself.
const PAUSE: Duration = Duration::from_secs(1);

/// A node that has no link to any other this long asks whether it is still a member. A removed one is
/// told by nobody: its links are closed, and its groups are not spoken to.
const ALONE: Duration = Duration::from_secs(3);

/// What is said, and what is seen.
pub(super) struct Presence {
    pub(super) entry: Entry,
    pub(super) data: Arc<DataDir>,
    pub(super) control: Control,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
}

/// Why the cluster has to be told again.
enum News {
    /// Not this process is what the cluster knows.
    Changed,
    /// There is no link to anybody.
    Alone,
}

impl Presence {
    /// Founds the cluster, or tells it that this process runs, what it is called and where it is;
    /// then looks on until `stop`.
    ///
    /// # Errors
    /// [`Expelled`] when the cluster has this node no more, or another process runs as it.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = self.keep() => ended,
        }
    }

    async fn keep(&mut self) -> anyhow::Result<()> {
        if let Some(bootstrap) = self.entry.identity.bootstrap {
            enter::found(&self.entry, bootstrap, &self.control).await?;
        } else {
            self.announce().await?;
        }
        loop {
            match self.news().await? {
                News::Changed => self.announce().await?,
                News::Alone => membership::still_in(&self.peers(), &self.entry.joining).await?,
            }
        }
    }

    /// Says it until the cluster takes it: without a leader it cannot be told anything, which is no
    /// reason to stop.
    async fn announce(&self) -> anyhow::Result<()> {
        let joining = &self.entry.joining;
        loop {
            match self.control.announce(joining.clone()).await {
                Err(why) if why.retryable() => tracing::warn!("{why}"),
                Err(AskError::Refused(
                    why @ (Refusal::Unsupported(_) | Refusal::Unversioned { .. }),
                )) => {
                    // Nothing that ends by itself; the links say the same, and readiness with them.
                    tracing::warn!(error = %why, "the cluster refuses this build, retrying");
                }
                Err(AskError::Refused(why)) if expels(&why) => {
                    return Err(Expelled(why.to_string()).into());
                }
                told => return told.context("the cluster does not take this node back"),
            }
            membership::still_in(&self.peers(), joining).await?;
            sleep(PAUSE).await;
        }
    }

    async fn news(&mut self) -> anyhow::Result<News> {
        let me = self.entry.identity.node;
        loop {
            let view = self.view.borrow_and_update().clone();
            let alone = view.members.len() > 1 && self.reachable.borrow_and_update().len() < 2;
            if view.is_gone(me) {
                return Err(Expelled(Refusal::Removed(me).to_string()).into());
            }
            self.data.keep_peers(&self.peers())?;
            if view.member(me).is_some_and(|known| !self.entry.joining.profile.describes(known)) {
                return Ok(News::Changed);
            }
            let changed = async {
                tokio::select! {
                    changed = self.view.changed() => changed,
                    changed = self.reachable.changed() => changed,
                }
            };
            if alone {
                match timeout(ALONE, changed).await {
                    Ok(changed) => changed?,
                    Err(_) => return Ok(News::Alone),
                }
            } else {
                changed.await?;
            }
        }
    }

    /// Where the others are: as the view has it, else as it was told.
    fn peers(&self) -> Vec<String> {
        let (view, me) = (self.view.borrow(), self.entry.identity.node);
        let others = view.members.values().filter(|member| member.id != me);
        let mut peers: Vec<_> = others.map(|member| member.addresses.peer.clone()).collect();
        if peers.is_empty() {
            peers.clone_from(&self.entry.config.join);
        }
        peers
    }
}

/// Whether a node that is told so has no place in the cluster, whatever else is changed.
fn expels(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Removed(_)
            | Refusal::Superseded { .. }
            | Refusal::NotThatNode(_)
            | Refusal::LogLost { .. }
            | Refusal::LogRolledBack { .. }
    )
}
