//! Whether the node can do its work: what a look at it finds, how long that has been so, and what an
//! operator is told. Pure; the time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use pushonce_consensus::Status;
use pushonce_core::{MemberState, NodeId, ShardId, VersionConflict};

/// What one look found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// This node.
    pub(super) me: NodeId,
    /// What the cluster counts it as.
    pub(super) state: Option<MemberState>,
    /// The control group, as it looks from here.
    pub(super) control: Standing,
    /// Whether the view of the cluster is current: nothing is published here before.
    pub(super) is_current: bool,
    /// The shards of which this node had a replica when it started.
    pub(super) restored: BTreeSet<ShardId>,
    /// Whether some of these were not started yet.
    pub(super) is_opening: bool,
    /// The replicas that run here.
    pub(super) replicas: BTreeMap<ShardId, Standing>,
    /// Who owns each shard, as far as is known.
    pub(super) owners: BTreeMap<ShardId, Option<NodeId>>,
    /// The nodes whose replicas of each shard vote, as its owner said last; those of the table before.
    pub(super) copies: BTreeMap<ShardId, Vec<NodeId>>,
    /// The nodes that were heard of on their links, and this node.
    pub(super) reachable: BTreeSet<NodeId>,
    /// Why nothing is written for publishers here, if that is so.
    pub(super) disk: Option<String>,
    /// Why this node takes part in no group any more, if that is so.
    pub(super) rolled_back: Option<String>,
    /// Why groups have halted here: they met something that this build cannot read. `None` is the
    /// control group.
    pub(super) halted: BTreeMap<Option<ShardId>, String>,
    /// The nodes with which this one exchanges no frames for their versions.
    pub(super) conflicts: BTreeMap<NodeId, VersionConflict>,
    /// Counts that rise as long as a part of the node goes round.
    pub(super) rounds: BTreeMap<Part, u64>,
}

/// How a group stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Who leads it.
    pub(super) leader: Option<NodeId>,
    /// This node does, with a lease.
    pub(super) leads: bool,
    /// The end of the log here.
    pub(super) last_log: u64,
    /// What of it was applied.
    pub(super) applied: u64,
    /// Entries that the leader holds and this replica has not applied; `None` before a leader was
    /// heard.
    pub(super) lag: Option<u64>,
}

/// A part of the node that goes round by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The thread that serves some of the clients.
    Lane(usize),
    /// What delivers to and from other nodes.
    Relay,
}

/// Something that keeps the node from its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    Outside,
    Joining,
    Control(Lack),
    Shard(ShardId, Lack),
    Unowned(ShardId),
    OwnerOutOfReach(ShardId, NodeId),
    /// Most of its copies are out of reach, and those of most other shards are not.
    CopiesOutOfReach(ShardId),
    NotApplying(ShardId),
    CatchingUp(ShardId),
    Stopped(Part),
}

/// What a group lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    Leader,
    LeaderOutOfReach(NodeId),
    Majority,
}

/// Why the node is not ready, for people, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// What is in the way.
    pub(super) text: String,
    /// What it keeps the node from.
    pub(super) blocks: Blocks,
}

/// What a node cannot do. A reason that blocks nothing is a warning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Taking publishes in.
    pub(super) publish: bool,
    /// Serving subscribers.
    pub(super) viewers: bool,
}

/// Looks again and again, and remembers since when it has found what it finds.
#[derive(Debug, Default)]
pub(super) struct Watchman {
    /// A look found nothing that blocks anything: from then on short disturbances are borne.
    was_ready: bool,
    since: BTreeMap<Obstacle, Instant>,
    /// By part, and by shard whose entries wait to be applied: the last count, and since when it is.
    rounds: BTreeMap<Part, (u64, Instant)>,
    applied: BTreeMap<ShardId, (u64, Instant)>,
    /// The shards whose replica here has been level with its leader since the start.
    caught_up: BTreeSet<ShardId>,
    /// The first look.
    started: Option<Instant>,
}

/// A group without a leader elects one, and a shard without an owner gets one, within two seconds:
/// what is over by then is no reason to send clients away.
const ELECTION: Duration = Duration::from_secs(2);

/// A link is given up after three seconds of silence; with this and a look every quarter of a second
/// it is told within five.
const SILENCE: Duration = Duration::from_secs(1);

/// What has not gone round, or on, for so long stands still: a busy machine may take one second.
const STILL: Duration = Duration::from_secs(3);

/// How many entries a replica may lack and still be level: what a busy shard has on its way.
const LEVEL_ENTRIES: u64 = 64;

/// For so long after its start a node is not ready because its replicas are not level. A rolling
/// restart that went on before would take the next copy away while this one is incomplete. It is a
/// matter of the start alone, and of so long at most: a replica that lags later, or for ever, keeps
/// nobody from being served here, and under an overload all nodes lag, of which none must send its
/// clients to the others. Metrics and `cluster status` show it all the same.
const CATCHING_UP_MAX: Duration = Duration::from_secs(600);

impl Watchman {
    /// What keeps the node from its work; nothing when it can do it.
    ///
    /// Until the node was ready once, nothing is borne: ready means serving, and a node that has just
    /// started serves nobody before it knows the leaders. Until then a control group without a leader
    /// blocks everything too, since the view may be an old one.
    pub(super) fn look(&mut self, facts: &Facts, now: Instant) -> Vec<Reason> {
        let dead = facts.without_majority();
        let mut found = found(facts, &dead);
        found.extend(self.still(facts, &dead, now));
        found.extend(self.catching_up(facts, &dead, now));
        self.since.retain(|obstacle, _| found.contains(obstacle));
        for &obstacle in &found {
            self.since.entry(obstacle).or_insert(now);
        }
        let was_ready = self.was_ready;
        let lasts = |(&obstacle, &since): (&Obstacle, &Instant)| {
            let borne = if was_ready { obstacle.borne() } else { Duration::ZERO };
            (now.saturating_duration_since(since) >= borne).then_some(obstacle)
        };
        let mut told = told(self.since.iter().filter_map(lasts).collect(), was_ready);
        // A leader that names itself does not show that it has a majority: no answer of it came yet.
        told.extend((!facts.is_current).then(|| Reason {
            text: "the view of the cluster may be old: the control group has not answered since this node \
                   started"
                .to_owned(),
            blocks: Blocks::PUBLISH,
        }));
        // The disk has a reserve: what it says is no matter of a moment.
        told.extend(facts.disk.clone().map(|text| Reason { text, blocks: Blocks::PUBLISH }));
        told.extend(facts.rolled_back.clone().map(Reason::of_all));
        told.extend(facts.unreadable().into_iter().map(Reason::of_all));
        self.was_ready |= told.iter().all(|reason| !reason.blocks.any());
        told
    }

    /// The replicas that were here at the start and have not been level with their leaders since.
    fn catching_up(
        &mut self,
        facts: &Facts,
        dead: &BTreeSet<ShardId>,
        now: Instant,
    ) -> Vec<Obstacle> {
        let started = *self.started.get_or_insert(now);
        let restored = facts.replicas.iter().filter(|(shard, _)| facts.restored.contains(shard));
        let is_level = |lag: u64| lag <= LEVEL_ENTRIES;
        let level = restored.filter(|(_, replica)| replica.lag.is_some_and(is_level));
        self.caught_up.extend(level.map(|(&shard, _)| shard));
        if now.saturating_duration_since(started) >= CATCHING_UP_MAX {
            return Vec::new();
        }
        let here = |shard: &&ShardId| {
            !dead.contains(shard) && (facts.is_opening || facts.replicas.contains_key(shard))
        };
        let behind = facts.restored.iter().filter(here);
        let behind = behind.filter(|shard| !self.caught_up.contains(shard));
        behind.map(|&shard| Obstacle::CatchingUp(shard)).collect()
    }

    /// What has stood still for too long.
    fn still(&mut self, facts: &Facts, dead: &BTreeSet<ShardId>, now: Instant) -> Vec<Obstacle> {
        let stands = |known: &mut (u64, Instant), count: u64| {
            if known.0 != count {
                *known = (count, now);
            }
            now.saturating_duration_since(known.1) >= STILL
        };
        let mut still = Vec::new();
        for (&part, &count) in &facts.rounds {
            if stands(self.rounds.entry(part).or_insert((count, now)), count) {
                still.push(Obstacle::Stopped(part));
            }
        }
        self.applied.retain(|shard, _| facts.replicas.contains_key(shard));
        // A shard without a majority has entries that nobody can commit.
        for (&shard, replica) in facts.replicas.iter().filter(|(shard, _)| !dead.contains(shard)) {
            let known = self.applied.entry(shard).or_insert((replica.applied, now));
            if replica.applied >= replica.last_log {
                *known = (replica.applied, now);
            } else if stands(known, replica.applied) {
                still.push(Obstacle::NotApplying(shard));
            }
        }
        still
    }
}

/// What a look finds, however long it may have been so.
fn found(facts: &Facts, dead: &BTreeSet<ShardId>) -> BTreeSet<Obstacle> {
    let mut found = BTreeSet::new();
    match facts.state {
        None => _ = found.insert(Obstacle::Outside),
        Some(MemberState::Joining) => _ = found.insert(Obstacle::Joining),
        Some(_) => {}
    }
    found.extend(facts.lack(&facts.control).map(Obstacle::Control));
    found.extend(dead.iter().copied().map(Obstacle::CopiesOutOfReach));
    for (&shard, replica) in facts.replicas.iter().filter(|(shard, _)| !dead.contains(shard)) {
        found.extend(facts.lack(replica).map(|lack| Obstacle::Shard(shard, lack)));
    }
    for (&shard, owner) in facts.owners.iter().filter(|(shard, _)| !dead.contains(shard)) {
        match owner {
            None => _ = found.insert(Obstacle::Unowned(shard)),
            Some(owner) if !facts.reachable.contains(owner) => {
                found.insert(Obstacle::OwnerOutOfReach(shard, *owner));
            }
            Some(_) => {}
        }
    }
    found
}

impl Facts {
    /// What this build cannot read; no matter of a moment either. A peer that cannot read what this node
    /// writes is the peer's trouble.
    fn unreadable(&self) -> BTreeSet<String> {
        let older = |conflict: &&VersionConflict| {
            matches!(conflict, VersionConflict::ThisNodeIsOlder { .. })
        };
        let halted = self.halted.iter().map(|(group, why)| match group {
            None => format!("the control group has halted: {why}"),
            Some(shard) => format!("{shard} has halted: {why}"),
        });
        let conflicts = self.conflicts.values().filter(older).map(ToString::to_string);
        halted.chain(conflicts).collect()
    }

    /// The shards that have lost the majority of their copies, as far as this node can see. When they are
    /// most of all shards, or the control group cannot be heard either, it is this node that has lost the
    /// others: then there are none.
    fn without_majority(&self) -> BTreeSet<ShardId> {
        #[cfg(feature = "planted-bugs")]
        if super::planted::blames_itself() {
            return BTreeSet::new();
        }
        if self.lack(&self.control).is_some() {
            return BTreeSet::new();
        }
        let is_dead = |nodes: &Vec<NodeId>| {
            let reached = nodes.iter().filter(|node| self.reachable.contains(node)).count();
            !nodes.is_empty() && reached <= nodes.len() / 2
        };
        let dead = self.copies.iter().filter(|(_, nodes)| is_dead(nodes));
        let dead: BTreeSet<_> = dead.map(|(&shard, _)| shard).collect();
        if dead.len() > self.copies.len() / 2 { BTreeSet::new() } else { dead }
    }

    fn lack(&self, group: &Standing) -> Option<Lack> {
        match group.leader {
            #[cfg(feature = "planted-bugs")]
            None if super::planted::needs_no_leader() => None,
            None => Some(Lack::Leader),
            // A leader without a majority goes on naming itself.
            Some(leader) if leader == self.me => (!group.leads).then_some(Lack::Majority),
            Some(leader) => {
                (!self.reachable.contains(&leader)).then_some(Lack::LeaderOutOfReach(leader))
            }
        }
    }
}

impl From<&Status> for Standing {
    fn from(status: &Status) -> Standing {
        let &Status { leader, leads, last_log, applied, leader_log, .. } = status;
        let heard = leader.is_some() && leader_log > 0 && !status.recovering;
        let lag = (leads || heard).then(|| status.lag());
        Standing { leader, leads, last_log, applied, lag }
    }
}

impl Obstacle {
    /// How long it may be so before it is told.
    fn borne(self) -> Duration {
        match self {
            Obstacle::Outside | Obstacle::Joining => Duration::ZERO,
            Obstacle::Control(Lack::Leader | Lack::Majority)
            | Obstacle::Shard(_, Lack::Leader | Lack::Majority)
            | Obstacle::Unowned(_) => ELECTION,
            Obstacle::Control(Lack::LeaderOutOfReach(_))
            | Obstacle::Shard(_, Lack::LeaderOutOfReach(_))
            | Obstacle::CopiesOutOfReach(_)
            | Obstacle::OwnerOutOfReach(..) => SILENCE,
            // It was long enough already.
            Obstacle::NotApplying(_) | Obstacle::CatchingUp(_) | Obstacle::Stopped(_) => {
                Duration::ZERO
            }
        }
    }

    /// The same thing of another shard has the same words.
    fn text(self) -> String {
        match self {
            Obstacle::Outside => "this node has not been taken into the cluster yet".to_owned(),
            Obstacle::Joining => "this node is still joining".to_owned(),
            Obstacle::Control(lack) => {
                format!("the control group {lack}: no node can join, leave or move")
            }
            Obstacle::Shard(_, lack) => format!("cannot commit, for the shard {lack}"),
            Obstacle::Unowned(_) => "no owner is known".to_owned(),
            Obstacle::OwnerOutOfReach(_, owner) => {
                format!("cannot deliver, for nothing is heard of the owner, {owner}")
            }
            Obstacle::CopiesOutOfReach(_) => {
                "no node that can be reached has a majority of its copies: its topics are unavailable \
                 until the nodes are back"
                    .to_owned()
            }
            Obstacle::NotApplying(_) => {
                format!("cannot apply: entries have waited for {} s", STILL.as_secs())
            }
            Obstacle::CatchingUp(_) => {
                "the replica has not caught up with its leader since this node started".to_owned()
            }
            Obstacle::Stopped(Part::Lane(lane)) => format!(
                "the thread lane-{lane}, which serves clients, has not moved for {} s",
                STILL.as_secs()
            ),
            Obstacle::Stopped(Part::Relay) => {
                format!("what delivers between nodes has not moved for {} s", STILL.as_secs())
            }
        }
    }

    /// What it keeps the node from.
    fn blocks(self, was_ready: bool) -> Blocks {
        match self {
            Obstacle::Outside
            | Obstacle::Joining
            | Obstacle::Unowned(_)
            | Obstacle::OwnerOutOfReach(..)
            | Obstacle::NotApplying(_)
            | Obstacle::CatchingUp(_)
            | Obstacle::Stopped(_)
            // The shard's topics cannot be read here without a lease either.
            | Obstacle::Shard(_, Lack::Majority) => Blocks::ALL,
            // A follower that hears no leader still brings publishes to an owner and serves what comes
            // from it; whether there is one is seen by the owners. But its copy may be missing.
            Obstacle::Shard(_, Lack::Leader | Lack::LeaderOutOfReach(_)) => Blocks::PUBLISH,
            // Shards are published to and read without it.
            Obstacle::Control(_) if was_ready => Blocks::default(),
            // The topics of all other shards are served, and no other node could serve these.
            Obstacle::CopiesOutOfReach(_) => Blocks::default(),
            Obstacle::Control(_) => Blocks::ALL,
        }
    }

    fn shard(self) -> Option<ShardId> {
        match self {
            Obstacle::Shard(shard, _)
            | Obstacle::Unowned(shard)
            | Obstacle::OwnerOutOfReach(shard, _)
            | Obstacle::CopiesOutOfReach(shard)
            | Obstacle::NotApplying(shard)
            | Obstacle::CatchingUp(shard) => Some(shard),
            _ => None,
        }
    }
}

/// One line for each kind: sixty-four shards that lack the same have one.
fn told(obstacles: Vec<Obstacle>, was_ready: bool) -> Vec<Reason> {
    let mut lines: Vec<(Reason, Vec<String>)> = Vec::new();
    for obstacle in obstacles {
        let reason = Reason { text: obstacle.text(), blocks: obstacle.blocks(was_ready) };
        let shard = obstacle.shard().map(|shard| shard.to_string());
        match lines.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, shards)) => shards.extend(shard),
            None => lines.push((reason, shard.into_iter().collect())),
        }
    }
    let line = |(reason, shards): (Reason, Vec<String>)| match shards.is_empty() {
        true => reason,
        false => Reason { text: format!("{}: {}", shards.join(", "), reason.text), ..reason },
    };
    lines.into_iter().map(line).collect()
}

impl Reason {
    /// Something that keeps the node from everything.
    pub(super) fn of_all(text: impl Into<String>) -> Reason {
        Reason { text: text.into(), blocks: Blocks::ALL }
    }
}

impl Blocks {
    /// Everything.
    pub(super) const ALL: Blocks = Blocks { publish: true, viewers: true };
    /// Publishing alone.
    pub(super) const PUBLISH: Blocks = Blocks { publish: true, viewers: false };
    /// New subscribers are rejected, and publishes are taken in.
    pub(super) const VIEWERS: Blocks = Blocks { publish: false, viewers: true };

    /// Whether it is anything at all.
    pub(super) fn any(self) -> bool {
        self.publish || self.viewers
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Leader => f.write_str("has no leader that this node can hear"),
            Lack::LeaderOutOfReach(leader) => {
                write!(f, "is led by {leader}, of which nothing is heard")
            }
            Lack::Majority => {
                f.write_str("is led by this node, and a majority of it does not answer")
            }
        }
    }
}

#[cfg(test)]
mod health_test;
