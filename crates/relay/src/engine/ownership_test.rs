//! Set-up: node 1 leads a shard, node 2 claims it falsely, node 3 looks on; all are voters. Expected: the leader
//! refutes the claim, and node 3 returns to the leader.

use std::sync::Arc;

use pushonce_core::test_util::claim;
use pushonce_core::{Member, Roles};

use super::super::EngineEvent;
use super::super::testing::view;
use super::*;
use crate::Config;

const SHARD: ShardId = ShardId(0);
const LEADER: NodeId = NodeId(1);
const FORGER: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);
const EDGE: NodeId = NodeId(4);

/// The engine of a node that has links to all others. Node 4 is an edge node.
fn engine(me: NodeId, now: Instant) -> Engine {
    let mut view = view(&["a", "a", "a", "a"]);
    let edge = view.members.get_mut(&EDGE).expect("a member");
    *edge = Member { roles: Roles { core: false, edge: true }, ..edge.clone() };
    view.placement.replicas.iter_mut().for_each(|replicas| replicas.retain(|node| *node != EDGE));
    view.next_id = NodeId(5);
    let nodes: Vec<NodeId> = view.members.keys().copied().collect();
    let mut engine = Engine::new(Config::new(me), Arc::new(view), now);
    for node in nodes.into_iter().filter(|node| *node != me) {
        engine.handle(EngineEvent::LinkUp(node), now);
    }
    engine
}

fn believed(engine: &Engine) -> Option<NodeId> {
    engine.routes.owners().owner_of(SHARD)
}

fn from(node: NodeId, frame: PeerFrame) -> EngineEvent {
    EngineEvent::Frame(node, frame)
}

fn claim_of(owner: NodeId, term: u64) -> PeerFrame {
    PeerFrame::Claim(claim(SHARD.0, owner.0, term))
}

/// The frames about claims that the effects send to a node.
fn sent_to(effects: &[EngineEffect], to: NodeId) -> Vec<PeerFrame> {
    let is_claim =
        |frame: &&PeerFrame| matches!(frame, PeerFrame::Claim(_) | PeerFrame::ClaimRefuted { .. });
    let sent = effects.iter().filter_map(|effect| match effect {
        EngineEffect::Send(node, frame) if *node == to => Some(frame),
        _ => None,
    });
    sent.filter(is_claim).cloned().collect()
}

#[test]
fn leader_that_keeps_its_lease_refutes_a_false_claim_and_is_believed_again() {
    let start = Instant::now();
    let (mut leader, mut other) = (engine(LEADER, start), engine(OTHER, start));
    leader.handle(EngineEvent::Claim(claim(SHARD.0, LEADER.0, 7)), start);
    other.handle(from(LEADER, claim_of(LEADER, 7)), start);

    other.handle(from(FORGER, claim_of(FORGER, 900)), start);
    assert_eq!(believed(&other), Some(FORGER), "a new owner is believed at once");
    leader.handle(from(FORGER, claim_of(FORGER, 900)), start);
    assert_eq!(believed(&leader), Some(LEADER));
    let early = leader.handle(EngineEvent::Tick, start + REFUTE_AFTER / 2);
    assert!(!sent_to(&early, OTHER).iter().any(|f| matches!(f, PeerFrame::ClaimRefuted { .. })));
    let effects = leader.handle(EngineEvent::Tick, start + REFUTE_AFTER);
    let refutation = PeerFrame::ClaimRefuted { shard: SHARD, owner: FORGER, term: Term(900) };
    let sent = sent_to(&effects, OTHER);
    assert_eq!(sent[0], refutation);
    for frame in sent {
        other.handle(from(LEADER, frame), start + REFUTE_AFTER);
    }
    assert_eq!(believed(&other), Some(LEADER));
    other.handle(from(FORGER, claim_of(FORGER, 901)), start + REFUTE_AFTER);
    assert_eq!(believed(&other), Some(LEADER), "the refuted node is believed again");
}

#[test]
fn successor_that_claims_before_the_leader_has_noticed_is_not_refuted() {
    let start = Instant::now();
    let mut leader = engine(LEADER, start);
    leader.handle(EngineEvent::Claim(claim(SHARD.0, LEADER.0, 7)), start);
    leader.handle(from(FORGER, claim_of(FORGER, 8)), start);
    assert_eq!(believed(&leader), Some(LEADER));
    leader.handle(EngineEvent::ClaimRevoked(SHARD), start);
    assert_eq!(believed(&leader), Some(FORGER));
    let effects = leader.handle(EngineEvent::Tick, start + 2 * REFUTE_AFTER);
    assert!(sent_to(&effects, OTHER).is_empty(), "{effects:?}");
}

#[test]
fn leader_elected_after_a_false_claim_takes_the_shard_back() {
    let start = Instant::now();
    let mut leader = engine(LEADER, start);
    // Claims are repeated some seconds from now.
    leader.handle(EngineEvent::Tick, start);
    leader.handle(from(FORGER, claim_of(FORGER, 900)), start);
    leader.handle(EngineEvent::Claim(claim(SHARD.0, LEADER.0, 7)), start);
    let effects = leader.handle(EngineEvent::Tick, start + REFUTE_AFTER);
    assert_eq!(believed(&leader), Some(LEADER));
    assert_eq!(sent_to(&effects, OTHER).len(), 2, "a refutation and the claim: {effects:?}");
}

#[test]
fn claims_of_edge_nodes_and_of_nodes_outside_the_group_are_rejected() {
    let start = Instant::now();
    let mut other = engine(OTHER, start);
    other.handle(from(LEADER, claim_of(LEADER, 7)), start);
    for (sender, owner) in [(EDGE, EDGE), (EDGE, FORGER)] {
        let effects = other.handle(from(sender, claim_of(owner, 8)), start);
        assert!(matches!(effects[..], [EngineEffect::Rejected(node, "claim")] if node == sender));
    }
    assert_eq!(believed(&other), Some(LEADER));
}

#[test]
fn voter_announces_the_owner_that_its_replica_follows() {
    let start = Instant::now();
    let mut other = engine(OTHER, start);
    let effects = other.handle(from(LEADER, claim_of(LEADER, 7)), start);
    assert!(sent_to(&effects, EDGE).is_empty(), "its replica does not know the leader yet");
    let leader = Some((LEADER, Term(7)));
    let effects = other.handle(EngineEvent::LeaderObserved(SHARD, leader), start);
    assert_eq!(sent_to(&effects, EDGE), [claim_of(LEADER, 7)]);
    assert!(sent_to(&effects, LEADER).is_empty(), "the owner knows");
    // A false refutation by another voter.
    let refutation = PeerFrame::ClaimRefuted { shard: SHARD, owner: LEADER, term: Term(7) };
    let effects = other.handle(from(FORGER, refutation.clone()), start);
    assert_eq!(believed(&other), Some(LEADER));
    assert_eq!(sent_to(&effects, EDGE), [claim_of(LEADER, 7)]);
    let again = other.handle(from(FORGER, refutation), start);
    assert!(sent_to(&again, EDGE).is_empty(), "at most once a second");
}

#[test]
fn owner_repeats_its_claims_while_it_leads() {
    let start = Instant::now();
    let mut leader = engine(LEADER, start);
    leader.handle(EngineEvent::Tick, start);
    leader.handle(EngineEvent::Claim(claim(SHARD.0, LEADER.0, 7)), start);
    let repeated = leader.handle(EngineEvent::Tick, start + CLAIM_INTERVAL);
    assert_eq!(sent_to(&repeated, OTHER), [claim_of(LEADER, 7)]);
    leader.handle(EngineEvent::ClaimRevoked(SHARD), start);
    let revoked = leader.handle(EngineEvent::Tick, start + 2 * CLAIM_INTERVAL);
    assert!(sent_to(&revoked, OTHER).is_empty());
}
