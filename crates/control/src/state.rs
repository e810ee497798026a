//! What is replicated: the cluster, as a value that commands change.

mod recover;

use std::collections::BTreeMap;

use pushonce_consensus::LogMark;
use pushonce_core::versioned::{self, Unreadable};
use pushonce_core::{
    ClusterId, ClusterVersion, ClusterView, ConsensusTimes, Durability, InvalidNamespace, Member,
    MemberState, Namespace, NamespaceChange, Namespaces, NodeId, Placement, ShardCount, Spread,
    VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::rules::Rules;
use crate::times::{Changing, Times};
use crate::{Answer, Command, Founding, Incarnation, Joined, Joining, Profile, Refusal, Run};

pub use recover::RecoverError;

/// The cluster as of an index of the log: nothing until it is founded. Two replicas that applied the
/// same commands are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State(Option<Cluster>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cluster {
    id: ClusterId,
    /// The index of the last entry that changed anything.
    version: u64,
    shards: ShardCount,
    replicas: u8,
    spread: Spread,
    next_id: u64,
    members: BTreeMap<NodeId, Registered>,
    /// For ever: an id is never used twice, and a removed directory never comes back.
    gone: BTreeMap<Incarnation, NodeId>,
    placement: Placement,
    namespaces: Namespaces,
    times: Times,
    /// In which version nodes write what they share. Never goes down.
    cluster_version: ClusterVersion,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registered {
    incarnation: Incarnation,
    /// The last that said it runs on that directory.
    run: Run,
    /// Of its log, when it said so last; `None` before it has one.
    log: Option<LogMark>,
    member: Member,
}

/// The first node of every cluster.
pub(crate) const FOUNDER: NodeId = NodeId(1);

impl State {
    /// Applies the command committed at `index`.
    pub fn apply(&mut self, index: u64, command: Command) -> Answer {
        let before = self.0.clone();
        let outcome = match (&mut self.0, command) {
            (_, Command::Found(founding)) => self.found(founding),
            (None, _) => Err(Refusal::NotFounded),
            (Some(cluster), command) => cluster.apply(index, command),
        };
        if self.0 != before
            && let Some(cluster) = &mut self.0
        {
            cluster.version = index;
            if before.is_none_or(|before| before.namespaces != cluster.namespaces) {
                cluster.namespaces.revision = index;
            }
        }
        outcome.unwrap_or_else(Answer::Refused)
    }

    /// The index of the last entry that changed anything; 0 before the cluster is founded.
    pub fn version(&self) -> u64 {
        self.0.as_ref().map_or(0, |cluster| cluster.version)
    }

    /// What every node may know of it.
    pub fn view(&self) -> Option<ClusterView> {
        self.0.as_ref().map(Cluster::view)
    }

    /// The version of the cluster; the oldest that this build supports before it is founded.
    pub fn cluster_version(&self) -> ClusterVersion {
        self.0.as_ref().map_or(VersionRange::SUPPORTED.min, |cluster| cluster.cluster_version)
    }

    /// The whole state, in postcard behind the version of the cluster.
    pub fn snapshot(&self) -> bytes::Bytes {
        versioned::encode(self.cluster_version(), self).into()
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// [`Unreadable`] for what is no snapshot of a version that this build reads.
    pub fn restore(snapshot: &[u8]) -> Result<State, Unreadable> {
        State::restore_within(VersionRange::READABLE, snapshot)
    }

    /// As [`State::restore`], by a build that reads `readable`.
    pub(crate) fn restore_within(
        readable: VersionRange,
        snapshot: &[u8],
    ) -> Result<State, Unreadable> {
        versioned::decode_within(readable, snapshot).map(|(_, state)| state)
    }

    fn found(&mut self, founding: Founding) -> Result<Answer, Refusal> {
        if let Some(cluster) = &self.0 {
            return cluster.founded_by(&founding);
        }
        founding.profile.check().map_err(Refusal::Profile)?;
        if founding.replicas == 0 {
            return Err(Refusal::NoReplicas);
        }
        supports(&founding.profile, founding.cluster_version)?;
        self.0 = Some(Cluster::new(founding));
        Ok(Answer::Done)
    }
}

impl Cluster {
    fn new(founding: Founding) -> Cluster {
        let Founding { cluster, incarnation, run, profile, shards, replicas, spread, .. } =
            founding;
        let Founding { namespaces, times, log, cluster_version, .. } = founding;
        let member = profile.into_member(FOUNDER, MemberState::Active);
        Cluster {
            id: cluster,
            version: 0,
            shards,
            replicas,
            spread,
            next_id: FOUNDER.0 + 1,
            members: BTreeMap::from([(FOUNDER, Registered { incarnation, run, log, member })]),
            gone: BTreeMap::new(),
            placement: Placement {
                version: 1,
                replicas: shards.ids().map(|_| vec![FOUNDER]).collect(),
            },
            namespaces,
            times: Times::new(times),
            cluster_version,
        }
    }

    fn rules(&self) -> &'static Rules {
        Rules::of(self.cluster_version)
    }

    fn founded_by(&self, founding: &Founding) -> Result<Answer, Refusal> {
        let known = self.members.get(&FOUNDER).map(|founder| founder.incarnation);
        if self.id == founding.cluster && known == Some(founding.incarnation) {
            return Ok(Answer::Done);
        }
        Err(Refusal::AlreadyFounded(self.id))
    }

    fn apply(&mut self, index: u64, command: Command) -> Result<Answer, Refusal> {
        match command {
            Command::Found(founding) => self.founded_by(&founding),
            Command::Join(joining) => self.join(index, joining).map(Answer::Joined),
            Command::Activate(node) => self.activate(node),
            Command::Place { version, replicas } => self.place(version, replicas),
            Command::Remove(node) => self.remove(node),
            Command::SetNamespace { name, change, drops_stored } => {
                self.set_namespace(name, change, drops_stored).map(Answer::Namespace)
            }
            Command::Drain { node, force } => self.drain(node, force),
            Command::Undrain(node) => self.undrain(node),
            Command::SetTimes(times) => self.set_times(times),
            Command::HoldsTimes { node, version } => self.holds_times(node, version),
            Command::Finalize { to } => self.finalize(to).map(Answer::Version),
        }
    }

    fn join(&mut self, index: u64, joining: Joining) -> Result<Joined, Refusal> {
        let Joining { incarnation, run, cluster, node: said, profile, times, log } = joining;
        if let Some(theirs) = cluster.filter(|&theirs| theirs != self.id) {
            return Err(Refusal::Foreign { theirs, ours: self.id });
        }
        profile.check().map_err(Refusal::Profile)?;
        supports(&profile, self.cluster_version)?;
        let known = self.identify(incarnation, said)?;
        self.is_the_newest(known, run)?;
        self.has_its_log(known, said.and(log))?;
        self.has_our_times(times)?;
        self.name_is_free(&profile.name, known)?;
        let max = self.rules().members_max;
        if known.is_none() && self.members.len() >= max {
            return Err(Refusal::Full { max: max as u32 });
        }
        let node = known.unwrap_or(NodeId(self.next_id));
        let state = match known.and_then(|node| self.members.get(&node)) {
            Some(registered) => registered.member.state,
            None => MemberState::Joining,
        };
        self.next_id = self.next_id.max(node.0 + 1);
        let log = log.or_else(|| self.members.get(&node)?.log);
        let member = profile.into_member(node, state);
        if self.members.insert(node, Registered { incarnation, run, log, member }).is_none() {
            self.times.acknowledge(node, self.times.agreed().version);
        }
        Ok(Joined { cluster: self.id, node, index, times: self.times.agreed() })
    }

    /// A node that was in use has voted: without that log it could vote again in the same term, and
    /// what it acknowledged would count though nobody has it. A member that joins and has never said
    /// that it has a log has no vote yet, so it may begin with an empty one.
    fn has_its_log(&self, node: Option<NodeId>, log: Option<LogMark>) -> Result<(), Refusal> {
        let Some((node, known)) = node.and_then(|node| Some((node, self.members.get(&node)?)))
        else {
            return Ok(());
        };
        match (known.log, log) {
            (None, None) if known.member.state == MemberState::Joining => Ok(()),
            (None, Some(_)) => Ok(()),
            (Some(before), Some(now)) if now.log == before.log => {
                if now.writes >= before.writes {
                    return Ok(());
                }
                let (writes, known) = (now.writes, before.writes);
                Err(Refusal::LogRolledBack { node, writes, known })
            }
            #[cfg(feature = "planted-bugs")]
            _ if crate::planted::takes_deleted_log() => Ok(()),
            _ => Err(Refusal::LogLost { node }),
        }
    }

    fn has_our_times(&self, said: Option<ConsensusTimes>) -> Result<(), Refusal> {
        let agreed = self.times.agreed();
        #[cfg(feature = "planted-bugs")]
        let said = said.filter(|_| !crate::planted::takes_other_times());
        match said {
            Some(said) if !agreed.accepts(&said) => {
                Err(Refusal::OtherTimes { said, cluster: agreed.target() })
            }
            _ => Ok(()),
        }
    }

    /// The member that a directory is; `None` for a new one.
    fn identify(
        &self,
        incarnation: Incarnation,
        said: Option<NodeId>,
    ) -> Result<Option<NodeId>, Refusal> {
        if let Some(&node) = self.gone.get(&incarnation) {
            return Err(Refusal::Removed(node));
        }
        let by_directory = self.members.values().find(|known| known.incarnation == incarnation);
        match (by_directory.map(|known| known.member.id), said) {
            (None, Some(said)) if self.gone.values().any(|&gone| gone == said) => {
                Err(Refusal::Removed(said))
            }
            (known, Some(said)) if known != Some(said) => Err(Refusal::NotThatNode(said)),
            (known, _) => Ok(known),
        }
    }

    /// Of two runs that count the same one began from a copy, and of two that do not the one with
    /// the lower count did: what the cluster heard from the other since is not in its log.
    fn is_the_newest(&self, node: Option<NodeId>, run: Run) -> Result<(), Refusal> {
        let Some((node, known)) = node.and_then(|node| Some((node, self.members.get(&node)?.run)))
        else {
            return Ok(());
        };
        if run.count > known.count || run == known {
            return Ok(());
        }
        Err(Refusal::Superseded { node, run: run.count, known: known.count })
    }

    fn name_is_free(&self, name: &str, except: Option<NodeId>) -> Result<(), Refusal> {
        let taken = |m: &&Member| m.name == name && Some(m.id) != except;
        match self.members.values().map(|known| &known.member).find(taken) {
            Some(holder) => Err(Refusal::NameTaken { name: name.to_owned(), holder: holder.id }),
            None => Ok(()),
        }
    }

    fn activate(&mut self, node: NodeId) -> Result<Answer, Refusal> {
        let known = self.members.get_mut(&node).ok_or(Refusal::NotAMember(node))?;
        if known.member.state == MemberState::Joining {
            known.member.state = MemberState::Active;
        }
        Ok(Answer::Done)
    }

    fn place(&mut self, version: u64, replicas: Vec<Vec<NodeId>>) -> Result<Answer, Refusal> {
        let table = Placement { version, replicas };
        if table == self.placement {
            return Ok(Answer::Done);
        }
        let holders = self.view();
        let holders = holders.shard_holders();
        let complete = table.replicas.len() == usize::from(self.shards.get());
        let sound = |list: &Vec<NodeId>| {
            !list.is_empty()
                && list.iter().all(|node| holders.contains_key(node))
                && list.iter().enumerate().all(|(at, node)| !list[..at].contains(node))
        };
        if version != self.placement.version + 1 || !complete || !table.replicas.iter().all(sound) {
            return Err(Refusal::StaleTable);
        }
        self.placement = table;
        Ok(Answer::Done)
    }

    fn remove(&mut self, node: NodeId) -> Result<Answer, Refusal> {
        if self.gone.values().any(|&gone| gone == node) {
            return Ok(Answer::Done);
        }
        if self.view().shard_holders().keys().eq([&node]) {
            return Err(Refusal::LastHolder(node));
        }
        let known = self.members.remove(&node).ok_or(Refusal::NotAMember(node))?;
        self.gone.insert(known.incarnation, node);
        self.times.advance(self.members.keys().copied());
        Ok(Answer::Done)
    }

    fn set_times(&mut self, times: ConsensusTimes) -> Result<Answer, Refusal> {
        let begun = self.times.set(times);
        begun.map_err(|Changing { to }| {
            let missing = self.times.missing(self.members.keys().copied()).collect();
            Refusal::TimesChanging { to, missing }
        })?;
        Ok(Answer::Done)
    }

    fn holds_times(&mut self, node: NodeId, version: u64) -> Result<Answer, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NotAMember(node));
        }
        self.times.acknowledge(node, version);
        self.times.advance(self.members.keys().copied());
        Ok(Answer::Done)
    }

    fn set_namespace(
        &mut self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        drops_stored: bool,
    ) -> Result<Namespace, Refusal> {
        let max = self.rules().namespaces_max;
        let Namespaces { revision: _, default, named } = &mut self.namespaces;
        let Some(name) = name else {
            let settings = change.map_or_else(Namespace::default, |change| default.with(change));
            settings.check().map_err(Refusal::Namespace)?;
            if settings.durability == Durability::Memory {
                return Err(Refusal::Namespace(InvalidNamespace::DefaultInMemory));
            }
            *default = settings.clone();
            return Ok(settings);
        };
        Namespaces::check_name(&name).map_err(Refusal::Namespace)?;
        let Some(change) = change else {
            named.remove(&name);
            return Ok(default.clone());
        };
        let before = named.get(&name).unwrap_or(default);
        let settings = before.with(change);
        settings.check().map_err(Refusal::Namespace)?;
        if before.goes_into_memory(&settings) && !drops_stored {
            return Err(Refusal::DropsStored(name));
        }
        if !named.contains_key(&name) && named.len() >= max {
            return Err(Refusal::TooManyNamespaces { max: max as u32 });
        }
        named.insert(name, settings.clone());
        Ok(settings)
    }

    /// The node that was asked has looked as well, at who can be reached. Two that look at one moment see
    /// neither the other's drain: that is judged here.
    fn drain(&mut self, node: NodeId, force: bool) -> Result<Answer, Refusal> {
        let view = self.view();
        if view.shard_holders().keys().eq([&node]) {
            return Err(Refusal::LastHolder(node));
        }
        let holds = |member: &Member| member.roles.core && member.state == MemberState::Active;
        let left = view.members.values().filter(|other| other.id != node && holds(other)).count();
        let gives = view.member(node).is_some_and(holds);
        if gives && !force && left < usize::from(self.replicas) {
            let (left, wanted) = (left as u32, u32::from(self.replicas));
            return Err(Refusal::TooFewCopies { node, left, wanted });
        }
        let known = self.members.get_mut(&node).ok_or(Refusal::NotAMember(node))?;
        known.member.state = MemberState::Draining;
        Ok(Answer::Done)
    }

    fn undrain(&mut self, node: NodeId) -> Result<Answer, Refusal> {
        let known = self.members.get_mut(&node).ok_or(Refusal::NotAMember(node))?;
        if known.member.state == MemberState::Draining {
            known.member.state = MemberState::Active;
        }
        Ok(Answer::Done)
    }

    /// Says again what holds already, so that the command may be repeated.
    fn finalize(&mut self, to: ClusterVersion) -> Result<ClusterVersion, Refusal> {
        let cluster = self.cluster_version;
        if to == cluster {
            return Ok(cluster);
        }
        if to != cluster.next() {
            return Err(Refusal::NotTheNextVersion { to, cluster });
        }
        #[cfg(feature = "planted-bugs")]
        if crate::planted::raises_without_support() {
            self.cluster_version = to;
            return Ok(to);
        }
        let members = self.view().without_support(to);
        if !members.is_empty() {
            return Err(Refusal::NotSupportedByAll { to, members });
        }
        self.cluster_version = to;
        Ok(to)
    }

    fn view(&self) -> ClusterView {
        let members = self.members.iter().map(|(&id, known)| (id, known.member.clone()));
        ClusterView {
            cluster: self.id,
            version: self.version,
            shards: self.shards,
            replicas: self.replicas,
            spread: self.spread,
            members: members.collect(),
            next_id: NodeId(self.next_id),
            placement: self.placement.clone(),
            namespaces: self.namespaces.clone(),
            times: self.times.agreed(),
            cluster_version: self.cluster_version,
        }
    }
}

/// A member that does not support the version of the cluster could not read what the others write.
fn supports(profile: &Profile, cluster: ClusterVersion) -> Result<(), Refusal> {
    let supported = profile.build.supported;
    if !supported.is_valid() {
        return Err(Refusal::Unversioned { cluster });
    }
    supported.accept(cluster).map(drop).map_err(Refusal::Unsupported)
}

#[cfg(test)]
#[path = "state/state_test.rs"]
pub(crate) mod state_test;
#[cfg(test)]
#[path = "state/version_test.rs"]
mod version_test;
