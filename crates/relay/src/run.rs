//! The relay's task: waits for what happens, and takes a turn for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pushonce_core::{ClusterView, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::conflicts::Conflicts;
use crate::link::{Heard, Link};
use crate::relay::Listening;
use crate::turn::{Parts, Taken, Turn};
use crate::{Config, Relay, dial};

/// A relay that runs.
pub(crate) struct Running {
    config: Arc<Config>,
    view: watch::Receiver<Arc<ClusterView>>,
    inbox: Listening,
    turn: Arc<Mutex<Turn>>,
    links: mpsc::Sender<Link>,
    greeted: mpsc::Receiver<Link>,
    conflicts: Conflicts,
    hearing: mpsc::Receiver<Heard>,
    dialled: BTreeMap<NodeId, Dialled>,
    /// Readers and diallers.
    tasks: JoinSet<()>,
    /// Publishes of peers that the shards have taken.
    taken: FuturesUnordered<BoxFuture<'static, Taken>>,
}

/// A peer that this node keeps a link to.
struct Dialled {
    address: String,
    task: AbortHandle,
}

/// Batches heard and not looked at yet, over all links. Over it readers wait, and their peers.
const HEARD_MAX: usize = 256;

impl Running {
    pub(crate) fn new(relay: Relay) -> Running {
        let Relay { config, mut view, source, sink, clocks, inbox, owners, .. } = relay;
        let Relay { reachable, stopping, links, greeted, conflicts, .. } = relay;
        let (heard, hearing) = mpsc::channel(HEARD_MAX);
        let seen = view.borrow_and_update().clone();
        let parts = Parts {
            config: config.clone(),
            view: seen,
            source,
            sink,
            clocks,
            owners,
            reachable,
            stopping,
            heard,
        };
        let turn = Arc::new(Mutex::new(Turn::new(parts)));
        inbox.0.lend(&turn);
        Running {
            config,
            view,
            inbox,
            turn,
            links,
            greeted,
            conflicts,
            hearing,
            dialled: BTreeMap::new(),
            tasks: JoinSet::new(),
            taken: FuturesUnordered::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = interval(self.config.retry_after);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut viewed = true;
        self.dial_members();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.inbox.0.said() => self.listen(),
                Some(link) = self.greeted.recv() => {
                    let reading = self.turn().link_up(link);
                    self.tasks.spawn(reading);
                }
                Some(heard) = self.hearing.recv() => self.turn().heard(heard),
                Some(taken) = self.taken.next() => self.turn().answer(taken),
                changed = self.view.changed(), if viewed => {
                    viewed = changed.is_ok();
                    self.view_changed();
                }
                _ = tick.tick() => {
                    self.turn().tick();
                    self.inbox.0.round();
                }
                Some(_) = self.tasks.join_next() => {}
            }
            let taken = self.turn().taken();
            self.taken.extend(taken);
            // Whoever took a turn from elsewhere left it half done: what is known now is not to be
            // relied on, and a relay that ends by itself ends the node.
            if self.turn.is_poisoned() {
                tracing::error!("a turn of the relay broke off");
                break;
            }
        }
        self.turn().close();
        self.tasks.shutdown().await;
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the turn first: what is said later must not be heard by somebody else before.
    fn listen(&self) {
        let mut turn = self.turn();
        turn.said(self.inbox.0.take());
    }

    fn view_changed(&mut self) {
        let view = self.view.borrow_and_update().clone();
        self.conflicts.keep_members(&view);
        self.turn().view_changed(view);
        self.dial_members();
    }

    /// Keeps a link to each member with a higher id, at the address it has now.
    fn dial_members(&mut self) {
        let view = self.view.borrow().clone();
        let me = self.config.me;
        let wanted = |node| {
            let member = view.member(node).filter(|member| member.id > me);
            member.map(|member| member.addresses.peer.as_str()).filter(|peer| !peer.is_empty())
        };
        self.dialled.retain(|&node, dialled| {
            let stays = wanted(node) == Some(dialled.address.as_str());
            if !stays {
                dialled.task.abort();
            }
            stays
        });
        for &node in view.members.keys() {
            let Some(address) = wanted(node) else { continue };
            if !self.dialled.contains_key(&node) {
                let (config, links) = (self.config.clone(), self.links.clone());
                let keep =
                    dial::keep(config, node, address.to_owned(), links, self.conflicts.clone());
                let task = self.tasks.spawn(keep);
                self.dialled.insert(node, Dialled { address: address.to_owned(), task });
            }
        }
    }
}
