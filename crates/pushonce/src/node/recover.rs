//! A cluster that has lost the majority of its control group for good, recovered on the data directories
//! of the nodes that survived, which do not run.
//!
//! A [`survey`] of every survivor leads each of them to the same [`plan`]: the group that has lost its
//! majority is begun anew by the survivor that has most of it, and by no other.

pub(crate) mod plan;
pub(crate) mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pushonce_consensus::{At, Found, GroupId, Offline};
use pushonce_control::State as ControlState;
use pushonce_core::{ClusterView, NodeId, ShardId};
use pushonce_shard::State as ShardState;
use serde::Serialize;

use self::plan::{Fate, NoPlan, Plan};
use self::survey::Survey;
use super::identity::{DataDir, Identity};

/// What an operator says.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Ids or names of the members that are lost for good.
    pub(crate) lost: Vec<String>,
    /// What the command printed on every survivor; none when this one is alone.
    pub(crate) surveys: Vec<PathBuf>,
}

/// A directory that is open and was looked at.
pub(crate) struct Recovery {
    data: DataDir,
    identity: Identity,
    offline: Offline,
    control: ControlState,
    control_found: Found,
    view: ClusterView,
    survey: Survey,
    plan: Result<Plan, NoPlan>,
}

impl Recovery {
    /// Opens a data directory that no process uses, and plans. Changes nothing but the count of starts.
    ///
    /// # Errors
    /// When it cannot be read, or what was said makes no sense.
    pub(crate) fn open(path: &Path, request: &Request) -> anyhow::Result<Recovery> {
        anyhow::ensure!(path.is_dir(), "{} is no data directory: check --data", path.display());
        let data = DataDir::open(path)?;
        let identity = data.identity()?.context("the data directory belongs to no cluster")?;
        let mut offline = Offline::open(path, identity.cluster, identity.node)?;
        let (control, control_found) = pushonce_control::replay(&mut offline)?;
        let view = control.view().context("this node has never heard of its cluster")?;
        let survey = Survey::of(&mut offline, &identity, &view, &control_found)?;
        let surveys = all(&survey, &request.surveys)?;
        let lost = request.lost.iter().map(|name| survey.meant(name));
        let lost: BTreeSet<_> = lost.collect::<anyhow::Result<_>>()?;
        let plan = plan::decide(&surveys, identity.node, &lost);
        Ok(Recovery { data, identity, offline, control, control_found, view, survey, plan })
    }

    pub(crate) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// What is to be done here.
    ///
    /// # Errors
    /// [`NoPlan`].
    pub(crate) fn plan(&self) -> Result<&Plan, NoPlan> {
        self.plan.as_ref().map_err(Clone::clone)
    }

    /// Does it, in one commit, and leaves a record in the directory.
    ///
    /// # Errors
    /// [`NoPlan`]; and when the store or the directory cannot be written. Nothing counts then.
    pub(crate) fn carry_out(self) -> anyhow::Result<()> {
        let Recovery { data, identity, mut offline, mut control, control_found, .. } = self;
        let plan = self.plan?;
        let at = control_found.next_history();
        if plan.control == identity.node {
            control.recover(identity.node, &plan.lost, at.index)?;
            let state = pushonce_control::capture(&control);
            offline.begin_anew(GroupId::CONTROL, at, state)?;
        }
        for (&shard, fate) in &plan.shards {
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
        let left = self.view.members.values().filter(|member| !plan.lost.contains(&member.id));
        let peers = left.filter(|member| member.id != identity.node);
        let peers: Vec<_> = peers.map(|member| member.addresses.peer.clone()).collect();
        data.keep_peers(&peers);
        record(data.path(), &plan)
    }
}

/// The surveys of all survivors by node. One of this node must still be true.
fn all(own: &Survey, files: &[PathBuf]) -> anyhow::Result<BTreeMap<NodeId, Survey>> {
    let mut surveys = BTreeMap::from([(own.node, own.clone())]);
    let mut read = BTreeSet::new();
    for file in files {
        let survey = Survey::read(file)?;
        let path = file.display();
        anyhow::ensure!(
            survey.cluster == own.cluster,
            "{path} is of the cluster {}, and this node of {}",
            survey.cluster,
            own.cluster
        );
        anyhow::ensure!(read.insert(survey.node), "--surveys has two of {}", survey.node);
        anyhow::ensure!(
            survey.node != own.node || survey == *own,
            "{path} does not say what is here any more: this node has run since. Make all surveys again"
        );
        surveys.insert(survey.node, survey);
    }
    anyhow::ensure!(
        read.is_empty() || read.contains(&own.node),
        "--surveys must be the same on every survivor: give that of this node, {}, too",
        own.node
    );
    Ok(surveys)
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
