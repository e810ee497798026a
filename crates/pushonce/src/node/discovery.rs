//! Finds members at addresses that the control group does not know yet.
//!
//! A member that moved cannot report its new address while the control group has no leader, and the group
//! elects none while its voters dial old addresses. So a node that misses another asks every address it
//! knows which member listens there: `--join`, the peers file, the view, the addresses that other members
//! report, and those that callers announce. An address enters the address book, beside that of the view,
//! only after a member of this cluster answered there. Consensus dials both, and its handshake checks
//! cluster and node again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pushonce_core::{Backoff, ClusterId, ClusterView, FailPoint, HostPort, NodeId};
use pushonce_peer::{Credentials, PeerAddresses};
use pushonce_proto::pb::peer::v1 as pb;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::identity::Identity;
use super::join;
use super::join_outcome::parse_cluster_id;
use super::join_request::cluster_id_bytes;

/// Pauses between two rounds while a member is missing and nothing changes.
const ROUND_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));

/// Interval at which the links are checked while no member is missing, and pause after a round that found
/// an address.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Timeout of a request. A member answers from memory: longer means that no member listens.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of addresses asked at the same time.
const CONCURRENT_REQUESTS_MAX: usize = 16;

/// Maximum number of addresses remembered from other nodes.
const LEARNED_ADDRESSES_MAX: usize = 256;

/// Maximum number of addresses remembered that callers announced. Callers are not members yet, so they must not
/// displace what members reported; more are asked in later rounds.
const CALLER_ADDRESSES_MAX: usize = 64;

/// Minimum time between two warnings about one address.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The discovery loop and its inputs.
pub(super) struct Discovery {
    pub(super) identity: Identity,
    pub(super) credentials: Credentials,
    /// The address at which other nodes dial this node.
    pub(super) own_address: String,
    /// The addresses of `--join` and of the peers file.
    pub(super) configured_addresses: Vec<String>,
    pub(super) peer_addresses: PeerAddresses,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The nodes that this node has a link to, and this node.
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// The addresses at which callers announce that they listen.
    pub(super) caller_addresses: mpsc::Receiver<HostPort>,
}

/// Addresses at which a member may listen, as other nodes reported. Bounded; the oldest is removed first.
#[derive(Debug, Default)]
struct LearnedAddresses {
    /// Reported by members.
    reported: Vec<HostPort>,
    /// Announced by callers.
    callers: Vec<HostPort>,
}

/// The outcome of a request to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IdentifyOutcome {
    /// A member of this cluster answered, with the addresses of the members it knows.
    Member { node: NodeId, peer_addresses: Vec<HostPort> },
    /// A node of another cluster answered.
    OtherClusterAnswered(ClusterId),
    /// No valid response.
    NoAnswer,
}

impl Discovery {
    /// Runs until `shutdown` is cancelled.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        shutdown.run_until_cancelled(self.run_rounds()).await;
        Ok(())
    }

    async fn run_rounds(&mut self) {
        let mut learned_addresses = LearnedAddresses::default();
        let mut warned_at = BTreeMap::new();
        let mut backoff = ROUND_BACKOFF;
        loop {
            let found_new = match self.missing_members() {
                Some(missing) => {
                    self.query_addresses(&missing, &mut learned_addresses, &mut warned_at).await
                }
                None => true,
            };
            let pause = if found_new {
                backoff.reset();
                CHECK_INTERVAL
            } else {
                backoff.next_delay(rand::random())
            };
            self.wait_for_next_round(Instant::now() + pause, &mut learned_addresses).await;
        }
    }

    /// Waits until the pause is over, or a caller announces a new address.
    async fn wait_for_next_round(
        &mut self,
        mut deadline: Instant,
        learned_addresses: &mut LearnedAddresses,
    ) {
        // A caller may announce any number of addresses, and a round asks each of them.
        let earliest = deadline.min(Instant::now() + CHECK_INTERVAL);
        loop {
            tokio::select! {
                () = sleep_until(deadline) => return,
                Some(caller) = self.caller_addresses.recv() => if learned_addresses.add_caller(caller) {
                    deadline = earliest;
                },
            }
        }
    }

    /// The members that this node has no link to; `None` when there is none and the view is known.
    fn missing_members(&self) -> Option<BTreeSet<NodeId>> {
        let (view, reachable) = (self.view.borrow(), self.reachable.borrow());
        let others = view.members.keys().filter(|&&id| id != self.identity.node);
        let missing: BTreeSet<_> = others.filter(|id| !reachable.contains(id)).copied().collect();
        (view.version == 0 || !missing.is_empty()).then_some(missing)
    }

    /// Asks every address once. Returns whether it learned anything new.
    async fn query_addresses(
        &self,
        missing: &BTreeSet<NodeId>,
        learned_addresses: &mut LearnedAddresses,
        warned_at: &mut BTreeMap<String, Instant>,
    ) -> bool {
        let view = self.view.borrow().clone();
        let addresses = candidate_addresses(
            &view,
            missing,
            &self.own_address,
            &self.configured_addresses,
            learned_addresses,
        );
        let mut outcomes = futures::stream::iter(addresses)
            .map(async |(address, expected_node)| {
                let outcome =
                    timeout(REQUEST_TIMEOUT, self.identify(&address, expected_node)).await;
                (address, outcome.unwrap_or(IdentifyOutcome::NoAnswer))
            })
            .buffer_unordered(CONCURRENT_REQUESTS_MAX);
        let mut found_new = false;
        while let Some((address, outcome)) = outcomes.next().await {
            match outcome {
                IdentifyOutcome::Member { node, peer_addresses } => {
                    if node != self.identity.node
                        && self.peer_addresses.add_hint(node, address.clone())
                    {
                        tracing::info!(peer = %node, address, "found a member at a new address");
                        found_new = true;
                    }
                    for other in peer_addresses {
                        found_new |= learned_addresses.add(other);
                    }
                }
                IdentifyOutcome::OtherClusterAnswered(other_cluster) => {
                    self.warn_other_cluster(&address, other_cluster, warned_at)
                }
                IdentifyOutcome::NoAnswer => {}
            }
        }
        found_new
    }

    async fn identify(&self, address: &str, expected_node: Option<NodeId>) -> IdentifyOutcome {
        let request = pb::IdentifyRequest {
            cluster_id: cluster_id_bytes(self.identity.cluster),
            node_id: self.identity.node.0,
            peer_address: self.own_address.clone(),
            expected_node: expected_node.map_or(0, |node| node.0),
        };
        let response = async {
            let mut client =
                join::connect_membership(&self.credentials, address, REQUEST_TIMEOUT).await?;
            Ok(client.identify(request).await?.into_inner())
        };
        parse_response(self.identity.cluster, response.await)
    }

    fn warn_other_cluster(
        &self,
        address: &str,
        other_cluster: ClusterId,
        warned_at: &mut BTreeMap<String, Instant>,
    ) {
        let now = Instant::now();
        warned_at.retain(|_, &mut at| now.saturating_duration_since(at) < WARN_INTERVAL);
        if warned_at.contains_key(address) {
            return;
        }
        warned_at.insert(address.to_owned(), now);
        tracing::warn!(ours = %self.identity.cluster, %other_cluster, peer = address,
            "a node of another cluster listens at the address of a peer: correct the address, or \
             start the peer with its own data directory");
    }
}

/// Evaluates a response for a node of `own_cluster`.
fn parse_response(
    own_cluster: ClusterId,
    response: Result<pb::IdentifyResponse, Status>,
) -> IdentifyOutcome {
    let Ok(response) = response else { return IdentifyOutcome::NoAnswer };
    match parse_cluster_id(&response.cluster_id) {
        Some(responding_cluster) if responding_cluster == own_cluster && response.node_id != 0 => {
            let addresses = response.peers.iter().filter_map(|peer| peer.address.parse().ok());
            let addresses = addresses.take(LEARNED_ADDRESSES_MAX).collect();
            IdentifyOutcome::Member { node: NodeId(response.node_id), peer_addresses: addresses }
        }
        Some(responding_cluster) if responding_cluster != own_cluster => {
            IdentifyOutcome::OtherClusterAnswered(responding_cluster)
        }
        _ => IdentifyOutcome::NoAnswer,
    }
}

/// The addresses to ask, without duplicates, each with the member that the view has there: those of
/// missing members, and those that belong to no member. Never this node's own.
fn candidate_addresses(
    view: &ClusterView,
    missing: &BTreeSet<NodeId>,
    own_address: &str,
    configured_addresses: &[String],
    learned_addresses: &LearnedAddresses,
) -> BTreeMap<String, Option<NodeId>> {
    let configured_addresses = match FailPoint::JoinAddressesIgnored.is_active() {
        true => &[],
        false => configured_addresses,
    };
    let mut addresses: BTreeMap<String, Option<NodeId>> = BTreeMap::new();
    for address in configured_addresses
        .iter()
        .cloned()
        .chain(learned_addresses.iter().map(HostPort::to_string))
    {
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

impl LearnedAddresses {
    fn iter(&self) -> impl Iterator<Item = &HostPort> {
        self.reported.iter().chain(&self.callers)
    }

    /// Adds an address that a member reported. Returns whether it is new.
    fn add(&mut self, address: HostPort) -> bool {
        push_new(&mut self.reported, address, LEARNED_ADDRESSES_MAX)
    }

    /// Adds an address that a caller announced. Returns whether it is new.
    fn add_caller(&mut self, address: HostPort) -> bool {
        !self.reported.contains(&address)
            && push_new(&mut self.callers, address, CALLER_ADDRESSES_MAX)
    }
}

/// Adds an address to a bounded list. Returns whether it is new.
fn push_new(list: &mut Vec<HostPort>, address: HostPort, max: usize) -> bool {
    if list.contains(&address) {
        return false;
    }
    if list.len() >= max {
        list.remove(0);
    }
    list.push(address);
    true
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Addresses, Member, test_util};

    use super::*;

    const OURS: ClusterId = ClusterId(7);

    fn address(text: &str) -> HostPort {
        text.parse().expect("a valid address")
    }

    fn view(members: &[(u64, &str)]) -> ClusterView {
        let mut view = ClusterView::unknown(OURS);
        for &(id, peer) in members {
            let addresses = Addresses { peer: peer.to_owned(), ..Addresses::default() };
            let member = Member { addresses, ..test_util::member(id) };
            view.members.insert(NodeId(id), member);
        }
        view
    }

    #[test]
    fn candidates_are_missing_members_and_unassigned_addresses_without_duplicates() {
        let view = view(&[(1, "a:1"), (2, "b:1"), (3, "c d:1"), (4, "d:1")]);
        let missing = BTreeSet::from([NodeId(2), NodeId(3)]);
        let configured = ["b:1", "new-b:1", "a:1", "d:1"].map(str::to_owned);
        let mut learned_addresses = LearnedAddresses::default();
        assert!(learned_addresses.add(address("c:1")) && !learned_addresses.add(address("c:1")));
        let candidates =
            candidate_addresses(&view, &missing, "a:1", &configured, &learned_addresses);
        let expected = [("b:1", Some(NodeId(2))), ("c:1", None), ("new-b:1", None)];
        assert_eq!(candidates, expected.map(|(text, node)| (text.to_owned(), node)).into());
    }

    #[test]
    fn only_a_response_with_the_own_cluster_id_identifies_a_member() {
        let response = |cluster: u128, node_id| {
            let peers = ["c:1", "broken"]
                .map(|address| pb::PeerAddress { node_id: 3, address: address.to_owned() });
            let cluster_id = cluster.to_be_bytes().to_vec().into();
            Ok(pb::IdentifyResponse { cluster_id, node_id, peers: peers.into() })
        };
        let member =
            IdentifyOutcome::Member { node: NodeId(2), peer_addresses: vec![address("c:1")] };
        assert_eq!(parse_response(OURS, response(7, 2)), member);
        assert_eq!(
            parse_response(OURS, response(8, 2)),
            IdentifyOutcome::OtherClusterAnswered(ClusterId(8))
        );
        assert_eq!(parse_response(OURS, response(7, 0)), IdentifyOutcome::NoAnswer);
        assert_eq!(
            parse_response(OURS, Ok(pb::IdentifyResponse::default())),
            IdentifyOutcome::NoAnswer
        );
        assert_eq!(
            parse_response(OURS, Err(Status::unimplemented("what"))),
            IdentifyOutcome::NoAnswer
        );
    }

    #[test]
    fn learned_addresses_are_bounded() {
        let mut learned_addresses = LearnedAddresses::default();
        for port in 1..=2 * LEARNED_ADDRESSES_MAX {
            learned_addresses.add(address(&format!("a:{port}")));
        }
        assert_eq!(learned_addresses.iter().count(), LEARNED_ADDRESSES_MAX);
        let newest = address(&format!("a:{}", 2 * LEARNED_ADDRESSES_MAX));
        assert!(learned_addresses.reported.contains(&newest));
    }

    #[test]
    fn addresses_that_callers_announce_displace_none_that_members_reported() {
        let mut learned_addresses = LearnedAddresses::default();
        assert!(learned_addresses.add(address("member:1")));
        for port in 1..=2 * LEARNED_ADDRESSES_MAX {
            learned_addresses.add_caller(address(&format!("caller:{port}")));
        }
        assert!(learned_addresses.reported.contains(&address("member:1")));
        assert_eq!(learned_addresses.iter().count(), 1 + CALLER_ADDRESSES_MAX);
        assert!(!learned_addresses.add_caller(address("member:1")), "it is known");
    }
}
