//! A cluster that has lost the majority of its control group for good, recovered on the data directory
//! of a node that survived and does not run.
//!
//! Every survivor decides by the same rule which groups it begins anew, so that no group is begun anew
//! twice: a shard that has lost its majority goes to the node that recovers the control group, if that
//! votes in it, else to the surviving voter with the lowest id.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pushonce_consensus::{At, Found, GroupId, Offline};
use pushonce_control::State as ControlState;
use pushonce_core::{ClusterView, NodeId, ShardId};
use pushonce_shard::State as ShardState;
use serde::Serialize;

use super::identity::{DataDir, Identity};

/// What an operator says.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Ids or names of the members that are lost for good.
    pub(crate) lost: Vec<String>,
    /// Id or name of the node on which the control group is recovered; `None` for this one.
    pub(crate) control: Option<String>,
}

/// What would be done, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Plan {
    /// The cluster.
    pub(crate) cluster: String,
    /// This node.
    pub(crate) node: u64,
    /// The members that are removed for ever.
    pub(crate) lost: BTreeSet<u64>,
    /// Whether the control group is begun anew here.
    pub(crate) control: bool,
    /// The shards of which this node has something to say, by id.
    pub(crate) shards: BTreeMap<u16, Fate>,
}

/// What becomes of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub(crate) enum Fate {
    /// Most of its replicas survive: it goes on by itself.
    GoesOn,
    /// Begun anew with what is here. Whatever the lost nodes acknowledged after the last entry is lost.
    Recovered {
        /// The last entry here.
        last: u64,
        topics: usize,
        messages: usize,
        /// This replica itself had lost something that it had acknowledged.
        incomplete: bool,
    },
    /// Begun anew and empty: no survivor is known to have anything of it.
    Empty,
    /// Another survivor begins it anew: this command is to be run there, too.
    Elsewhere {
        /// The survivor.
        node: u64,
    },
}

/// A directory that is open and was looked at.
pub(crate) struct Recovery {
    data: DataDir,
    identity: Identity,
    offline: Offline,
    control: ControlState,
    control_found: Found,
    lost: BTreeSet<NodeId>,
    /// Where the control group is recovered.
    keeper: NodeId,
    view: ClusterView,
    plan: Plan,
}

impl Recovery {
    /// Opens a data directory that no process uses, and plans. Changes nothing but the count of starts.
    ///
    /// # Errors
    /// When it cannot be read, or a recovery makes no sense.
    pub(crate) fn plan(path: &Path, request: &Request) -> anyhow::Result<Recovery> {
        anyhow::ensure!(path.is_dir(), "{} is no data directory: check --data", path.display());
        let data = DataDir::open(path)?;
        let identity = data.identity()?.context("the data directory belongs to no cluster")?;
        let me = identity.node;
        let mut offline = Offline::open(path, identity.cluster, me)?;
        let (control, control_found) = pushonce_control::replay(&mut offline)?;
        let view = control.view().context("this node has never heard of its cluster")?;
        let lost = request.lost.iter().map(|name| meant(&view, name));
        let lost: BTreeSet<_> = lost.collect::<anyhow::Result<_>>()?;
        let keeper = request.control.as_deref().map_or(Ok(me), |name| meant(&view, name))?;
        check(me, keeper, &lost, &control_found.voters)?;
        let plan = Plan {
            cluster: identity.cluster.to_string(),
            node: me.0,
            lost: lost.iter().map(|node| node.0).collect(),
            control: keeper == me,
            shards: BTreeMap::new(),
        };
        let mut recovery =
            Recovery { data, identity, offline, control, control_found, lost, keeper, view, plan };
        recovery.look_at_shards()?;
        Ok(recovery)
    }

    pub(crate) fn as_plan(&self) -> &Plan {
        &self.plan
    }

    fn look_at_shards(&mut self) -> anyhow::Result<()> {
        let here: BTreeSet<_> =
            self.offline.groups()?.into_iter().filter_map(GroupId::as_shard).collect();
        for shard in self.view.shards.ids() {
            let fate = if here.contains(&shard) {
                let (state, found) = pushonce_shard::replay(&mut self.offline, shard)?;
                Some(self.fate(&state, &found))
            } else {
                self.fate_of_absent(shard)
            };
            self.plan.shards.extend(fate.map(|fate| (shard.0, fate)));
        }
        Ok(())
    }

    fn fate(&self, state: &ShardState, found: &Found) -> Fate {
        let me = self.identity.node;
        match begins_anew(&found.voters, &self.lost, self.keeper) {
            None => Fate::GoesOn,
            Some(node) if node == me => {
                let ((topics, messages), incomplete) = (state.size(), found.recovering);
                Fate::Recovered { last: found.last, topics, messages, incomplete }
            }
            Some(node) => Fate::Elsewhere { node: node.0 },
        }
    }

    /// Of a shard without a replica here only the table is known.
    fn fate_of_absent(&self, shard: ShardId) -> Option<Fate> {
        let table: BTreeSet<_> = self.view.placement.of(shard).iter().copied().collect();
        match begins_anew(&table, &self.lost, self.keeper)? {
            node if node != self.identity.node => Some(Fate::Elsewhere { node: node.0 }),
            _ => Some(Fate::Empty),
        }
    }

    /// Does it, in one commit, and leaves a record in the directory.
    ///
    /// # Errors
    /// When the store or the directory cannot be written; nothing counts then.
    pub(crate) fn carry_out(self) -> anyhow::Result<()> {
        let Recovery { data, identity, mut offline, mut control, control_found, .. } = self;
        let at = control_found.next_history();
        if self.plan.control {
            control.recover(identity.node, &self.lost, at.index)?;
            let state = pushonce_control::capture(&control);
            offline.begin_anew(GroupId::CONTROL, at, state)?;
        }
        for (&shard, fate) in &self.plan.shards {
            let shard = ShardId(shard);
            match fate {
                Fate::Recovered { .. } => {
                    let (state, found) = pushonce_shard::replay(&mut offline, shard)?;
                    begin(&mut offline, shard, found.next_history(), state)?;
                }
                Fate::Empty => begin(&mut offline, shard, at, ShardState::new(shard))?,
                Fate::GoesOn | Fate::Elsewhere { .. } => {}
            }
        }
        offline.commit()?;
        let left = self.view.members.values().filter(|member| !self.lost.contains(&member.id));
        let peers = left.filter(|member| member.id != identity.node);
        let peers: Vec<_> = peers.map(|member| member.addresses.peer.clone()).collect();
        data.keep_peers(&peers);
        record(data.path(), &self.plan)
    }
}

fn begin(
    offline: &mut Offline,
    shard: ShardId,
    at: At,
    mut state: ShardState,
) -> anyhow::Result<()> {
    state.recover(at.index);
    Ok(offline.begin_anew(GroupId::shard(shard), at, pushonce_shard::capture(state))?)
}

/// The node that begins a group anew; `None` when most of its voters are left.
fn begins_anew(
    voters: &BTreeSet<NodeId>,
    lost: &BTreeSet<NodeId>,
    keeper: NodeId,
) -> Option<NodeId> {
    let left: BTreeSet<_> = voters.difference(lost).copied().collect();
    if left.len() > voters.len() / 2 {
        return None;
    }
    if left.is_empty() || left.contains(&keeper) { Some(keeper) } else { left.first().copied() }
}

fn check(
    me: NodeId,
    keeper: NodeId,
    lost: &BTreeSet<NodeId>,
    voters: &BTreeSet<NodeId>,
) -> anyhow::Result<()> {
    anyhow::ensure!(!lost.is_empty(), "name the nodes that are lost for good with --lost");
    anyhow::ensure!(!lost.contains(&me), "{me} is this node: --lost takes only the lost ones");
    anyhow::ensure!(!lost.contains(&keeper), "--control {keeper} is one of the lost nodes");
    anyhow::ensure!(
        begins_anew(voters, lost, keeper).is_some(),
        "the control group has a majority without the lost nodes: start the others, and take each \
         lost one out with `pushonce cluster remove`"
    );
    Ok(())
}

/// The id of a member: `n3`, or its name.
fn meant(view: &ClusterView, name: &str) -> anyhow::Result<NodeId> {
    let by_id = name.strip_prefix('n').and_then(|id| id.parse().ok()).map(NodeId);
    let by_id = by_id.filter(|id| view.members.contains_key(id));
    let by_name = view.members.values().find(|member| member.name == name).map(|member| member.id);
    match (by_id, by_name) {
        (Some(id), Some(other)) if id != other => {
            anyhow::bail!(
                "{name} is the id of one member and the name of {other}: say {other} or {id}"
            )
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => {
            let known: Vec<_> =
                view.members.values().map(|m| format!("{} ({})", m.id, m.name)).collect();
            anyhow::bail!("no member is called {name:?}; there are {}", known.join(", "))
        }
    }
}

/// One line of JSON for each recovery, for whoever wonders later.
fn record(path: &Path, plan: &Plan) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Record<'a> {
        time_ms: u64,
        #[serde(flatten)]
        plan: &'a Plan,
    }
    let path = path.join("recoveries.jsonl");
    let line = serde_json::to_string(&Record { time_ms: now_ms(), plan })?;
    let file = File::options().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{line}").and_then(|()| file.sync_all()));
    written
        .with_context(|| format!("the recovery is done, but {} cannot be written", path.display()))
}

/// The wall clock, for people who read the record.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn begins(voters: &[u64], lost: &[u64], keeper: u64) -> Option<u64> {
        begins_anew(&ids(voters), &ids(lost), NodeId(keeper)).map(|node| node.0)
    }

    #[test]
    fn a_group_with_a_majority_goes_on_by_itself() {
        assert_eq!(begins(&[1, 2, 3], &[3, 4], 1), None);
        assert_eq!(begins(&[1], &[2, 3], 1), None);
    }

    #[test]
    fn a_group_without_one_is_begun_anew_by_exactly_one_survivor() {
        assert_eq!(begins(&[1, 2, 3], &[2, 3], 1), Some(1));
        assert_eq!(begins(&[1, 2, 3, 4], &[3, 4], 2), Some(2), "half is no majority");
        assert_eq!(begins(&[2, 3, 4, 5, 6], &[4, 5, 6], 1), Some(2), "the keeper has no replica");
        assert_eq!(begins(&[2, 3], &[2, 3], 1), Some(1), "nobody has anything of it");
    }

    #[test]
    fn a_recovery_that_is_not_needed_or_makes_no_sense_is_refused() {
        let check = |lost: &[u64], keeper| {
            let checked = check(NodeId(1), NodeId(keeper), &ids(lost), &ids(&[1, 2, 3]));
            checked.map_err(|why| why.to_string()).err()
        };
        assert_eq!(check(&[2, 3], 1), None);
        assert!(check(&[], 1).is_some_and(|why| why.contains("--lost")));
        assert!(check(&[1, 2], 3).is_some_and(|why| why.contains("this node")));
        assert!(check(&[2, 3], 2).is_some_and(|why| why.contains("--control")));
        assert!(check(&[3], 1).is_some_and(|why| why.contains("cluster remove")));
    }
}
