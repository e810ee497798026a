//! The relay task: waits for events and runs the driver for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pushonce_core::{ClusterView, NodeId};
use pushonce_peer::PeerTransport;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::engine_driver::{EngineDriver, EngineDriverParts, PeerPublishResult};
use crate::link::{LinkEvent, PeerLink};
use crate::relay::InboxGuard;
use crate::version_conflicts::VersionConflicts;
use crate::{Config, Relay, TopicSink, dial};

/// The state of a running relay.
pub(crate) struct RelayTask {
    config: Arc<Config>,
    transport: PeerTransport,
    view: watch::Receiver<Arc<ClusterView>>,
    inbox: InboxGuard,
    driver: Arc<Mutex<EngineDriver>>,
    link_sender: mpsc::Sender<PeerLink>,
    link_receiver: mpsc::Receiver<PeerLink>,
    conflicts: VersionConflicts,
    link_events: mpsc::Receiver<LinkEvent>,
    /// The tasks that keep a link to a peer.
    dialers: BTreeMap<NodeId, AbortHandle>,
    /// Link readers and dialers.
    tasks: JoinSet<()>,
    /// Pending peer publishes that were submitted to the shards.
    peer_publishes: FuturesUnordered<BoxFuture<'static, PeerPublishResult>>,
}

/// Maximum batches read from all links and not handled yet. Over it the readers wait, and so do their peers.
const LINK_EVENTS_MAX: usize = 256;

impl RelayTask {
    pub(crate) fn new(relay: Relay, sink: Arc<dyn TopicSink>) -> RelayTask {
        let Relay { config, transport, mut view, source, clocks, inbox, owners, .. } = relay;
        let Relay {
            reachable,
            stopping,
            stale_shards,
            round_trips,
            link_sender,
            link_receiver,
            conflicts,
            ..
        } = relay;
        let (link_event_sender, link_events) = mpsc::channel(LINK_EVENTS_MAX);
        let current_view = view.borrow_and_update().clone();
        let parts = EngineDriverParts {
            config: config.clone(),
            view: current_view,
            source,
            sink,
            clocks,
            owners,
            reachable,
            stopping,
            stale_shards,
            round_trips,
            link_event_sender,
        };
        let driver = Arc::new(Mutex::new(EngineDriver::new(parts)));
        inbox.0.set_driver(&driver);
        RelayTask {
            config,
            transport,
            view,
            inbox,
            driver,
            link_sender,
            link_receiver,
            conflicts,
            link_events,
            dialers: BTreeMap::new(),
            tasks: JoinSet::new(),
            peer_publishes: FuturesUnordered::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = interval(self.config.retry_after);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_view_open = true;
        self.update_dialers();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.inbox.0.notified() => self.drain_inbox(),
                Some(link) = self.link_receiver.recv() => {
                    let span = tracing::info_span!("link", peer = %link.node);
                    let reader = self.lock_driver().on_link_up(link);
                    self.tasks.spawn(reader.instrument(span));
                }
                Some(event) = self.link_events.recv() => self.lock_driver().on_link_event(event),
                Some(finished) = self.peer_publishes.next() => self.lock_driver().on_peer_publish_done(finished),
                changed = self.view.changed(), if is_view_open => {
                    is_view_open = changed.is_ok();
                    self.on_view_changed();
                }
                _ = tick.tick() => {
                    self.lock_driver().tick();
                    self.inbox.0.record_tick();
                }
                Some(_) = self.tasks.join_next() => {}
            }
            let peer_publishes = self.lock_driver().take_peer_publishes();
            self.peer_publishes.extend(peer_publishes);
            // A thread that ran the driver panicked in the middle of an event. The state cannot be relied on,
            // and a relay that ends by itself ends the node.
            if self.driver.is_poisoned() {
                tracing::error!("the relay panicked while it handled an event, stopping");
                break;
            }
        }
        self.lock_driver().close();
        self.tasks.shutdown().await;
    }

    fn lock_driver(&self) -> MutexGuard<'_, EngineDriver> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the driver before it takes the events, so that a later event cannot overtake them.
    fn drain_inbox(&self) {
        let mut driver = self.lock_driver();
        driver.on_local_events(self.inbox.0.take_all());
    }

    fn on_view_changed(&mut self) {
        let view = self.view.borrow_and_update().clone();
        self.conflicts.retain_members(&view);
        self.lock_driver().on_view(view);
        self.update_dialers();
    }

    /// Keeps a dialer for each member with a higher id.
    fn update_dialers(&mut self) {
        let view = self.view.borrow().clone();
        let me = self.config.me;
        self.dialers.retain(|&node, task| {
            let is_member = view.member(node).is_some();
            if !is_member {
                task.abort();
            }
            is_member
        });
        for &node in view.members.keys().filter(|&&node| node > me) {
            if self.dialers.contains_key(&node) {
                continue;
            }
            let dialing = dial::maintain_link(
                self.config.clone(),
                self.transport.clone(),
                node,
                self.link_sender.clone(),
                self.conflicts.clone(),
            );
            let span = tracing::info_span!("link", peer = %node);
            self.dialers.insert(node, self.tasks.spawn(dialing.instrument(span)));
        }
    }
}
