//! Tells the cluster that this node is here, and notices when the cluster has it no more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pushonce_control::{AskError, Control, Refusal};
use pushonce_core::{ClusterView, NodeId};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::enter::{self, Entry};
use super::identity::DataDir;
use super::join::{self, Expelled};

/// Between two tries to tell the cluster; each try waits some seconds for a leader by itself.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two tries while the cluster rejects the settings of this node: an operator has to act.
const REJECTED_PAUSE: Duration = Duration::from_secs(10);

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
    /// The index of the control group's log at which the cluster took this process.
    pub(super) announced: watch::Sender<Option<u64>>,
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
    /// [`Expelled`] when the control group has committed that this node is no member any more, or that
    /// its data directory is an old copy. Nothing else that another node says ends this one.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = self.keep() => ended,
        }
    }

    async fn keep(&mut self) -> anyhow::Result<()> {
        if let Some(bootstrap) = self.entry.identity.bootstrap {
            enter::found(&self.entry, bootstrap, &self.control).await?;
        }
        self.announce().await?;
        loop {
            match self.news().await? {
                News::Changed => {
                    let index = self.announce().await?;
                    // Until the view shows it, the same would be announced again and again.
                    let _ended = self.control.applied(index).await;
                }
                News::Alone => self.still_member().await?,
            }
        }
    }

    /// Says it until the cluster takes it, by the entry of the index that it gives: without a leader it cannot be told anything, which is no
    /// reason to stop.
    async fn announce(&self) -> anyhow::Result<u64> {
        let joining = &self.entry.joining;
        loop {
            let pause = match self.control.announce(joining.clone()).await {
                Ok(index) => {
                    self.announced_at(index);
                    return Ok(index);
                }
                Err(AskError::Refused(why)) if why.is_final() => {
                    return Err(Expelled(why.to_string()).into());
                }
                Err(error) if error.retryable() => {
                    tracing::warn!(%error, "cannot announce this node to the cluster, retrying");
                    PAUSE
                }
                // It stays the member that it was under its old settings.
                Err(error) => {
                    tracing::error!(%error, "the cluster rejects the settings of this node");
                    // A leader has answered; what it had told this node by then is all that is known.
                    self.announced_at(self.control.status().borrow().last_log);
                    REJECTED_PAUSE
                }
            };
            if self.view.borrow().is_gone(self.entry.identity.node) {
                return Err(self.removed().into());
            }
            self.still_member().await?;
            sleep(pause).await;
        }
    }

    async fn still_member(&self) -> Result<(), Expelled> {
        let Entry { config, identity, joining, .. } = &self.entry;
        let addresses = [config.join.clone(), self.peers()].concat();
        join::still_member(&addresses, identity.asker(), joining).await
    }

    /// The removal of this node is in its own copy of the committed state.
    fn removed(&self) -> Expelled {
        Expelled(Refusal::Removed(self.entry.identity.node).to_string())
    }

    /// The first index counts: from then on the view is current.
    fn announced_at(&self, index: u64) {
        self.announced.send_if_modified(|known| {
            let first = known.is_none();
            *known = known.or(Some(index));
            first
        });
    }

    async fn news(&mut self) -> anyhow::Result<News> {
        let me = self.entry.identity.node;
        loop {
            let view = self.view.borrow_and_update().clone();
            let alone = view.members.len() > 1 && self.reachable.borrow_and_update().len() < 2;
            if view.is_gone(me) {
                return Err(self.removed().into());
            }
            self.data.keep_peers(&self.peers());
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

    /// Where the other members are, as the view has it.
    fn peers(&self) -> Vec<String> {
        let (view, me) = (self.view.borrow(), self.entry.identity.node);
        let others = view.members.values().filter(|member| member.id != me);
        others.map(|member| member.addresses.peer.clone()).collect()
    }
}
