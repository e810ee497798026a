//! Set-up: a node that serves one gRPC service over loopback, and the transports of its callers. Expected: a
//! peer is accepted, and every other caller is rejected with what to change; a dialer finds a peer that moved;
//! the shared data channel survives a restart of the peer.

mod support;

use std::collections::BTreeSet;

use pushonce_core::{ClusterId, ConsensusTimes, NodeId, VersionRange};
use pushonce_peer::{ChannelKind, DialError, GreetingError, PeerAddresses, PeerTransport};
use support::{ServingNode, call, dial_and_call};
use tokio::net::TcpListener;

const CLUSTER: ClusterId = ClusterId(7);

fn transport(id: u64, addresses: PeerAddresses) -> PeerTransport {
    PeerTransport::new(CLUSTER, NodeId(id), addresses, &ConsensusTimes::LAN)
}

fn addresses(known: &[(u64, &str)]) -> PeerAddresses {
    let addresses = PeerAddresses::default();
    known.iter().for_each(|&(id, address)| addresses.set(NodeId(id), address));
    addresses
}

#[tokio::test]
async fn peer_is_accepted_and_both_sides_know_each_other() {
    let node = ServingNode::start(transport(2, PeerAddresses::default()), "127.0.0.1:0").await;
    let caller = transport(1, addresses(&[(2, &node.address)]));
    let version = dial_and_call(&caller, 2).await.expect("accepted");
    assert_eq!(version, VersionRange::supported().min);
    assert_eq!(*node.callers.lock().expect("no panic"), [NodeId(1)]);
}

#[tokio::test]
async fn caller_without_a_place_in_the_cluster_is_rejected_with_what_to_change() {
    let members = PeerAddresses::default();
    let known = [1, 2].map(|id| (NodeId(id), "a:1".to_owned()));
    members.replace(known.into(), NodeId(4), BTreeSet::new());
    let node = ServingNode::start(transport(2, members), "127.0.0.1:0").await;
    let known = || addresses(&[(2, &node.address), (5, &node.address)]);

    let other_cluster = PeerTransport::new(ClusterId(8), NodeId(1), known(), &ConsensusTimes::LAN);
    let newer = transport(1, known());
    newer.agreed_version().raise(VersionRange::supported().max.next());
    let cases = [
        (&other_cluster, 2, "not 00000000000000000000000000000008; correct the dialled address"),
        (&transport(1, known()), 5, "this is n2, not n5"),
        (&transport(3, known()), 2, "n3 was removed from the cluster"),
        (&newer, 2, "run a build that supports"),
    ];
    for (caller, to, expected) in cases {
        let error = dial_and_call(caller, to).await.expect_err("rejected");
        assert!(error.is_rejection() && error.to_string().contains(expected), "{error}");
    }
    assert!(node.callers.lock().expect("no panic").is_empty());
    dial_and_call(&transport(9, known()), 2).await.expect("a new member is accepted");
}

#[tokio::test]
async fn caller_learns_of_a_version_conflict_from_the_rejection() {
    let node = ServingNode::start(transport(2, PeerAddresses::default()), "127.0.0.1:0").await;
    let caller = transport(1, addresses(&[(2, &node.address)]));
    // An offer that this build cannot make: no version that it supports.
    caller.agreed_version().raise(VersionRange::supported().max.next());
    let error = dial_and_call(&caller, 2).await.expect_err("rejected");
    let conflict = matches!(error, DialError::Greeting(GreetingError::Version { .. }));
    assert!(conflict && error.version_conflict().is_some(), "{error}");
}

#[tokio::test]
async fn dialer_tries_every_address_and_the_data_channel_follows_it() {
    let node = ServingNode::start(transport(2, PeerAddresses::default()), "127.0.0.1:0").await;
    let unused = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let old = unused.local_addr().expect("bound").to_string();
    drop(unused);
    let caller = transport(1, addresses(&[(2, &old)]));
    let mut dialer = caller.dialer(NodeId(2), ChannelKind::Data);
    assert!(matches!(dialer.connect().await, Err(DialError::Unreachable(_))));
    caller.addresses().add_hint(NodeId(2), node.address.clone());
    dialer.wait_before_retry().await;
    let channel = dialer.connect().await.expect("the second address");
    call(&caller, 2, channel).await.expect("accepted");

    assert_eq!(dialer.address(), node.address);
    let before = caller.data_channel(NodeId(2)).expect("an address is known");
    call(&caller, 2, before).await.expect_err("no node listens at the committed address");
    dialer.on_answered();
    let after = caller.data_channel(NodeId(2)).expect("an address is known");
    call(&caller, 2, after).await.expect("accepted");
    dialer.connect().await.expect("the address that answered is tried first");
}

#[tokio::test]
async fn data_channel_reconnects_to_a_restarted_peer() {
    let node = ServingNode::start(transport(2, PeerAddresses::default()), "127.0.0.1:0").await;
    let caller = transport(1, addresses(&[(2, &node.address)]));
    let channel = || caller.data_channel(NodeId(2)).expect("an address is known");
    call(&caller, 2, channel()).await.expect("accepted");
    let address = node.address.clone();
    node.stop().await;
    let again = ServingNode::start(transport(2, PeerAddresses::default()), &address).await;
    // The end of the old connection may be noticed by the first call only.
    while call(&caller, 2, channel()).await.is_err() {}
    assert_eq!(*again.callers.lock().expect("no panic"), [NodeId(1)]);
    assert!(matches!(caller.data_channel(NodeId(3)), Err(DialError::UnknownAddress(NodeId(3)))));
}
