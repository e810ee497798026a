//! Finds members at addresses that the control group does not know yet.
//!
//! A member that moved cannot tell the control group its new address while the group has no leader, and
//! the group elects none while its voters dial old addresses. So a node that misses another asks every
//! address it has heard of which member listens there: `--join`, the peers file, the view, what other
//! members answer, and where callers say they listen. Only an address at which a member of this cluster
//! answered goes into the address book, beside the one of the view. Consensus dials both, and its greeting
//! checks cluster and node again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pushonce_consensus::AddressBook;
use pushonce_core::{ClusterId, ClusterView, HostPort, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::identity::Identity;
use super::join;
use super::membership::bytes_of;
use super::verdict::cluster_id;

/// Between two rounds while a member is missing; doubled up to [`PAUSE_MAX`] while nothing changes.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A member answers this from memory: longer means that nobody listens.
const PATIENCE: Duration = Duration::from_secs(1);

/// Addresses that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// Addresses that were heard of from others and are remembered.
const HEARD_MAX: usize = 256;

/// Between two warnings about one address.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The loop, and what it reads.
pub(super) struct Discovery {
    pub(super) identity: Identity,
    /// Where others dial this node.
    pub(super) own_address: String,
    /// `--join` and the peers file.
    pub(super) given: Vec<String>,
    pub(super) book: AddressBook,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The nodes that this one has a link to, and this node.
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// Where callers say that they listen.
    pub(super) callers: mpsc::Receiver<HostPort>,
}

/// The addresses of which somebody said that a member may listen there. Bounded; the oldest goes first.
#[derive(Debug, Default)]
struct Heard(Vec<HostPort>);

/// What an address answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// A member of this cluster, and where it knows others to be.
    Member { node: NodeId, others: Vec<HostPort> },
    /// A node of another cluster.
    OtherCluster(ClusterId),
    /// Nothing that could be understood.
    Nothing,
}

impl Discovery {
    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        shutdown.run_until_cancelled(self.discover()).await;
        Ok(())
    }

    async fn discover(&mut self) {
        let mut heard = Heard::default();
        let mut warned = BTreeMap::new();
        let mut pause = PAUSE_MIN;
        loop {
            pause = match self.missing() {
                Some(missing) if self.round(&missing, &mut heard, &mut warned).await => PAUSE_MIN,
                Some(_) => (pause * 2).min(PAUSE_MAX),
                None => PAUSE_MIN,
            };
            self.wait(Instant::now() + pause, &mut heard).await;
        }
    }

    /// Until the time has come, or a caller names a new address.
    async fn wait(&mut self, until: Instant, heard: &mut Heard) {
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                Some(caller) = self.callers.recv() => if heard.add(caller) { return },
            }
        }
    }

    /// The members that this node has no link to; `None` when there is none and the view is known.
    fn missing(&self) -> Option<BTreeSet<NodeId>> {
        let (view, reachable) = (self.view.borrow(), self.reachable.borrow());
        let others = view.members.keys().filter(|&&id| id != self.identity.node);
        let missing: BTreeSet<_> = others.filter(|id| !reachable.contains(id)).copied().collect();
        (view.version == 0 || !missing.is_empty()).then_some(missing)
    }

    /// Asks every address once. Says whether anything new was learned.
    async fn round(
        &self,
        missing: &BTreeSet<NodeId>,
        heard: &mut Heard,
        warned: &mut BTreeMap<String, Instant>,
    ) -> bool {
        let view = self.view.borrow().clone();
        let addresses = candidates(&view, missing, &self.own_address, &self.given, heard);
        let mut answers = futures::stream::iter(addresses)
            .map(async |(address, expected)| {
                let found = timeout(PATIENCE, self.ask(&address, expected)).await;
                (address, found.unwrap_or(Found::Nothing))
            })
            .buffer_unordered(ASKED_AT_ONCE);
        let mut learned = false;
        while let Some((address, found)) = answers.next().await {
            match found {
                Found::Member { node, others } => {
                    if node != self.identity.node && self.book.hint(node, address.clone()) {
                        tracing::info!(peer = %node, address, "found a member at a new address");
                        learned = true;
                    }
                    for other in others {
                        learned |= heard.add(other);
                    }
                }
                Found::OtherCluster(theirs) => self.warn(&address, theirs, warned),
                Found::Nothing => {}
            }
        }
        learned
    }

    async fn ask(&self, address: &str, expected: Option<NodeId>) -> Found {
        let request = pb::IdentifyRequest {
            cluster_id: bytes_of(self.identity.cluster),
            node_id: self.identity.node.0,
            peer_address: self.own_address.clone(),
            expected_node: expected.map_or(0, |node| node.0),
        };
        let answer = async {
            let mut client = join::connect(address, PATIENCE).await?;
            Ok(client.identify(request).await?.into_inner())
        };
        understood(self.identity.cluster, answer.await)
    }

    fn warn(&self, address: &str, theirs: ClusterId, warned: &mut BTreeMap<String, Instant>) {
        let now = Instant::now();
        warned.retain(|_, &mut at| now.saturating_duration_since(at) < WARN_EVERY);
        if warned.contains_key(address) {
            return;
        }
        warned.insert(address.to_owned(), now);
        tracing::warn!(ours = %self.identity.cluster, %theirs, peer = address,
            "a node of another cluster listens at the address of a peer: correct the address, or \
             start the peer with its own data directory");
    }
}

/// What an answer says to a node of `cluster`.
fn understood(cluster: ClusterId, answer: Result<pb::IdentifyResponse, Status>) -> Found {
    let Ok(answer) = answer else { return Found::Nothing };
    match cluster_id(&answer.cluster_id) {
        Some(theirs) if theirs == cluster && answer.node_id != 0 => {
            let others = answer.peers.iter().filter_map(|peer| peer.address.parse().ok());
            let others = others.take(HEARD_MAX).collect();
            Found::Member { node: NodeId(answer.node_id), others }
        }
        Some(theirs) if theirs != cluster => Found::OtherCluster(theirs),
        _ => Found::Nothing,
    }
}

/// Every address to ask, each once, with the member that the view has there: those of missing members,
/// and those that belong to no member. Never this node's own.
fn candidates(
    view: &ClusterView,
    missing: &BTreeSet<NodeId>,
    own_address: &str,
    given: &[String],
    heard: &Heard,
) -> BTreeMap<String, Option<NodeId>> {
    #[cfg(feature = "planted-bugs")]
    let given = if super::planted::ignores_join() { &[] } else { given };
    let mut addresses: BTreeMap<String, Option<NodeId>> = BTreeMap::new();
    for address in given.iter().cloned().chain(heard.0.iter().map(HostPort::to_string)) {
        addresses.insert(address, None);
    }
    for member in view.members.values() {
        let address = &member.addresses.peer;
        if missing.contains(&member.id) {
            addresses.insert(address.clone(), Some(member.id));
        } else {
            addresses.remove(address);
        }
    }
    addresses.retain(|address, _| address != own_address && address.parse::<HostPort>().is_ok());
    addresses
}

impl Heard {
    /// Says whether it is new.
    fn add(&mut self, address: HostPort) -> bool {
        if self.0.contains(&address) {
            return false;
        }
        if self.0.len() >= HEARD_MAX {
            self.0.remove(0);
        }
        self.0.push(address);
        true
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Addresses, Member, MemberState, Roles};

    use super::*;

    const OURS: ClusterId = ClusterId(7);

    fn address(text: &str) -> HostPort {
        text.parse().expect("an address")
    }

    fn view(members: &[(u64, &str)]) -> ClusterView {
        let mut view = ClusterView::unknown(OURS);
        for &(id, peer) in members {
            let addresses = Addresses { peer: peer.to_owned(), ..Addresses::default() };
            let member = Member {
                id: NodeId(id),
                name: format!("node-{id}"),
                addresses,
                region: String::new(),
                zone: String::new(),
                roles: Roles::default(),
                weight: 1,
                state: MemberState::Active,
                build: Default::default(),
            };
            view.members.insert(NodeId(id), member);
        }
        view
    }

    #[test]
    fn addresses_of_missing_members_and_of_nobody_are_asked_once() {
        let view = view(&[(1, "a:1"), (2, "b:1"), (3, "c d:1"), (4, "d:1")]);
        let missing = BTreeSet::from([NodeId(2), NodeId(3)]);
        let given = ["b:1", "new-b:1", "a:1", "d:1"].map(str::to_owned);
        let mut heard = Heard::default();
        assert!(heard.add(address("c:1")) && !heard.add(address("c:1")));
        let asked = candidates(&view, &missing, "a:1", &given, &heard);
        let wanted = [("b:1", Some(NodeId(2))), ("c:1", None), ("new-b:1", None)];
        assert_eq!(asked, wanted.map(|(text, node)| (text.to_owned(), node)).into());
    }

    #[test]
    fn only_an_answer_with_the_own_cluster_id_names_a_member() {
        let answer = |cluster: u128, node_id| {
            let peers = ["c:1", "broken"]
                .map(|address| pb::PeerAddress { node_id: 3, address: address.to_owned() });
            let cluster_id = cluster.to_be_bytes().to_vec().into();
            Ok(pb::IdentifyResponse { cluster_id, node_id, peers: peers.into() })
        };
        let member = Found::Member { node: NodeId(2), others: vec![address("c:1")] };
        assert_eq!(understood(OURS, answer(7, 2)), member);
        assert_eq!(understood(OURS, answer(8, 2)), Found::OtherCluster(ClusterId(8)));
        assert_eq!(understood(OURS, answer(7, 0)), Found::Nothing);
        assert_eq!(understood(OURS, Ok(pb::IdentifyResponse::default())), Found::Nothing);
        assert_eq!(understood(OURS, Err(Status::unimplemented("what"))), Found::Nothing);
    }

    #[test]
    fn what_was_heard_is_bounded() {
        let mut heard = Heard::default();
        for port in 1..=2 * HEARD_MAX {
            heard.add(address(&format!("a:{port}")));
        }
        assert_eq!(heard.0.len(), HEARD_MAX);
        assert!(heard.0.contains(&address(&format!("a:{}", 2 * HEARD_MAX))));
    }
}
