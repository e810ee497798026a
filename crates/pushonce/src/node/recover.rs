//! Offline recovery of a cluster in which groups have lost their majority for good, on the data
//! directories of the surviving nodes.
//!
//! A [`Survey`] of each survivor leads all of them to the same [`RecoveryPlan`]: a group that has lost its
//! majority is recreated by the survivor that has most of it, and by no other. The control group is one of
//! these groups. While it has its majority, it stays as it is.

mod lost_nodes;
pub(crate) mod plan;
pub(crate) mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pushonce_consensus::{EntryId, GroupId, OfflineGroup, OfflineStore};
use pushonce_control::ControlState;
use pushonce_core::{ClusterView, NodeId, ShardId, Term};
use pushonce_shard::ShardState;
use serde::Serialize;

use self::plan::{PlanError, RecoveryPlan, ShardRecovery};
use self::survey::Survey;
use super::identity::{DataDir, Identity};

/// The operator's request.
#[derive(Clone, Debug)]
pub(crate) struct RecoveryRequest {
    /// Ids or names of the members that are lost for good.
    pub(crate) lost: Vec<String>,
    /// The files with the command's output of every survivor; empty when this one is the only survivor.
    pub(crate) surveys: Vec<PathBuf>,
}

/// An open data directory that was surveyed.
pub(crate) struct OfflineRecovery {
    data: DataDir,
    identity: Identity,
    offline: OfflineStore,
    control: ControlState,
    view: ClusterView,
    survey: Survey,
    /// The log position at which a recreated group may start. See [`new_history_start`].
    history_start: EntryId,
    plan: Result<RecoveryPlan, PlanError>,
}

impl OfflineRecovery {
    /// Opens a data directory that no process uses, and plans. Changes nothing but the count of starts.
    ///
    /// # Errors
    /// When the directory cannot be read, or the request is invalid.
    pub(crate) fn open(path: &Path, request: &RecoveryRequest) -> anyhow::Result<OfflineRecovery> {
        anyhow::ensure!(path.is_dir(), "{} is not a directory: check --data", path.display());
        let data = DataDir::open(path)?;
        let identity = data.load_identity()?.context("the data directory belongs to no cluster")?;
        if let Some(reason) = pushonce_consensus::read_rollback_reason(path) {
            anyhow::bail!(
                "this directory was restored from an earlier state ({reason}): name {} in --lost, or, if \
                 nothing newer is left anywhere, delete {}/rolled-back and accept what is missing",
                identity.node,
                path.display()
            );
        }
        let mut offline = OfflineStore::open(path, identity.cluster, identity.node)?;
        let (control, found) = pushonce_control::replay(&mut offline).context(
            "without its control group this node cannot be a survivor: name it in --lost on the others",
        )?;
        let view = control.view().context("this node has no view of its cluster")?;
        let recoveries = count_recoveries(path)?;
        let survey = Survey::from_offline(&mut offline, &identity, &view, &found, recoveries)?;
        let surveys = collect_surveys(&survey, &request.surveys)?;
        let lost = lost_nodes::resolve(&surveys, &request.lost);
        let plan = lost.and_then(|lost| plan::make_plan(&surveys, identity.node, &lost));
        let history_start = new_history_start(&surveys);
        Ok(OfflineRecovery { data, identity, offline, control, view, survey, history_start, plan })
    }

    pub(crate) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The plan for this node.
    ///
    /// # Errors
    /// [`PlanError`] when there is no plan.
    pub(crate) fn plan(&self) -> Result<&RecoveryPlan, PlanError> {
        self.plan.as_ref().map_err(Clone::clone)
    }

    /// Executes the plan in one commit, after a record of it was written to the directory.
    ///
    /// # Errors
    /// [`PlanError`]; and when the store or the directory cannot be written. Then nothing has changed.
    pub(crate) fn apply(self) -> anyhow::Result<()> {
        let OfflineRecovery {
            data,
            identity,
            mut offline,
            mut control,
            view,
            history_start: above,
            ..
        } = self;
        let plan = self.plan?;
        if plan.control == Some(identity.node) {
            // Some members may have been removed already.
            let known_members =
                plan.lost.iter().copied().filter(|node| view.members.contains_key(node));
            control.recover(identity.node, &known_members.collect(), above.index)?;
            let state = pushonce_control::capture(&control);
            offline.force_new_group(GroupId::CONTROL, above, state)?;
        }
        for (&shard, fate) in &plan.shards {
            let shard = ShardId(shard);
            match fate {
                ShardRecovery::Recovered { .. } => {
                    let (state, found) = pushonce_shard::replay(&mut offline, shard)?;
                    recreate_shard(
                        &mut offline,
                        shard,
                        later_position(found.new_history_start(), above),
                        state,
                    )?;
                }
                ShardRecovery::Empty => {
                    recreate_shard(&mut offline, shard, above, ShardState::new(shard))?
                }
                ShardRecovery::HasMajority | ShardRecovery::RecoveredElsewhere { .. } => {}
            }
        }
        // An interrupted recovery counts too: then the next one starts at a higher position.
        append_record(data.path(), &plan)?;
        offline.commit()?;
        let remaining = view.members.values().filter(|member| !plan.lost.contains(&member.id));
        let peers = remaining.filter(|member| member.id != identity.node);
        let peers: Vec<_> = peers.map(|member| member.addresses.peer.clone()).collect();
        data.save_peers(&peers);
        Ok(())
    }
}

/// The surveys of all survivors by node. A survey of this node must match its current state.
fn collect_surveys(own: &Survey, files: &[PathBuf]) -> anyhow::Result<BTreeMap<NodeId, Survey>> {
    let mut surveys = BTreeMap::from([(own.node, own.clone())]);
    let mut surveyed_nodes = BTreeSet::new();
    for file in files {
        let survey = Survey::read_file(file)?;
        let path = file.display();
        anyhow::ensure!(
            survey.cluster == own.cluster,
            "{path} is a survey of cluster {}, but this node belongs to cluster {}",
            survey.cluster,
            own.cluster
        );
        anyhow::ensure!(
            surveyed_nodes.insert(survey.node),
            "--surveys has two surveys of {}",
            survey.node
        );
        anyhow::ensure!(
            survey.node != own.node || survey == *own,
            "{path} is out of date: this node has run since, or was recovered. Make all surveys again"
        );
        surveys.insert(survey.node, survey);
    }
    anyhow::ensure!(
        surveyed_nodes.is_empty() || surveyed_nodes.contains(&own.node),
        "--surveys must be the same on every survivor: include the survey of this node, {}",
        own.node
    );
    Ok(surveys)
}

/// A log position above any that a lost replica of a group may have reached.
///
/// Each recovery raises a group at most one step above its position, or to this position. So no group is
/// more steps above the highest surviving replica than there were recoveries, and this adds one more. The
/// survivors know the number of recoveries: a shard that was recreated before may have no surviving replica.
fn new_history_start(surveys: &BTreeMap<NodeId, Survey>) -> EntryId {
    let replicas = || surveys.values().flat_map(|it| it.shards.values().chain([&it.control]));
    let highest = OfflineGroup {
        last_index: replicas().map(|replica| replica.last_index).max().unwrap_or_default(),
        term: Term(replicas().map(|replica| replica.term).max().unwrap_or_default()),
        ..OfflineGroup::default()
    };
    let recoveries = surveys.values().map(|survey| survey.recoveries).max();
    highest.new_history_start_after(recoveries.unwrap_or_default())
}

fn later_position(a: EntryId, b: EntryId) -> EntryId {
    EntryId { index: a.index.max(b.index), term: a.term.max(b.term) }
}

fn recreate_shard(
    offline: &mut OfflineStore,
    shard: ShardId,
    at: EntryId,
    mut state: ShardState,
) -> anyhow::Result<()> {
    state.recover(at.index);
    Ok(offline.force_new_group(GroupId::shard(shard), at, pushonce_shard::capture(state))?)
}

const RECORD_FILE: &str = "recoveries.jsonl";

/// The number of recoveries that a data directory has a record of.
fn count_recoveries(path: &Path) -> anyhow::Result<u64> {
    let path = path.join(RECORD_FILE);
    match std::fs::read(&path) {
        Ok(text) => Ok(text.iter().filter(|&&byte| byte == b'\n').count() as u64),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Appends one line of JSON to the record: for operators, and for [`count_recoveries`].
fn append_record(path: &Path, plan: &RecoveryPlan) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct RecoveryRecord<'a> {
        time_ms: u64,
        #[serde(flatten)]
        plan: &'a RecoveryPlan,
    }
    let path = path.join(RECORD_FILE);
    let line = serde_json::to_string(&RecoveryRecord { time_ms: now_ms(), plan })?;
    let file = File::options().create(true).append(true).open(&path);
    let result = file.and_then(|mut file| writeln!(file, "{line}").and_then(|()| file.sync_all()));
    result.with_context(|| format!("cannot write {}; nothing was changed", path.display()))
}

/// The wall clock in milliseconds, for the record.
fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::survey::SurveyReplica;
    use super::*;

    #[test]
    fn new_history_starts_above_any_history_that_no_survivor_has() {
        let survey = |recoveries| Survey {
            cluster: "c0".to_owned(),
            node: NodeId(1),
            members: BTreeMap::new(),
            shard_count: 1,
            recoveries,
            control: SurveyReplica {
                last_index: 90,
                term: 7,
                last_term: 7,
                ..SurveyReplica::default()
            },
            shards: BTreeMap::new(),
            unreadable: BTreeMap::new(),
        };
        let history_start =
            |recoveries| new_history_start(&BTreeMap::from([(NodeId(1), survey(recoveries))]));
        let (first, second) = (history_start(0), history_start(1));
        let mut high = survey(0);
        high.shards
            .insert(3, SurveyReplica { last_index: 1 << 41, term: 7, ..SurveyReplica::default() });
        let high = new_history_start(&BTreeMap::from([(NodeId(1), high)]));
        assert!(high.index > 1 << 41, "a shard may be above the control group");
        // A shard that was recreated at the first position and has continued since is below the second.
        assert!(second.index > first.index + (1 << 39) && second.term > first.term);
    }
}
