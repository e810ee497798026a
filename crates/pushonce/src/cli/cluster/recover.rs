//! `pushonce cluster recover`: recovery after the majority of some groups is lost for good.

use std::path::PathBuf;

use serde_json::json;

use super::super::operator::print_output;
use crate::node::recover::plan::{RecoveryPlan, ShardRecovery, UnreadableReplica};
use crate::node::recover::{OfflineRecovery, RecoveryRequest};

/// The directory of a survivor, and the lost nodes.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Data directory of this node, which must be stopped
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Ids or names (n2,n3) of the nodes that are lost permanently; they must never run again
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true)]
    lost: Vec<String>,
    /// With several survivors: files with the --json output of this command on each of them, including this
    /// node; the same files on every survivor
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    surveys: Vec<PathBuf>,
    /// Execute the plan; without it the command prints the plan and what may be lost
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let Args { data, lost, surveys, yes } = args;
    let is_survey = surveys.is_empty() && json && !yes;
    let recovery = OfflineRecovery::open(&data, &RecoveryRequest { lost, surveys })?;
    let own_survey = recovery.survey().clone();
    let plan = match recovery.plan() {
        Ok(plan) => plan.clone(),
        // The other survivors need this survey, even if this node alone cannot make a plan.
        Err(error) if is_survey => {
            let plan_error = error.to_string();
            let output = || json!({"done": false, "no_plan": plan_error, "survey": own_survey});
            print_output(json, output, String::new)?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if yes {
        recovery.apply()?;
    }
    print_output(
        json,
        || json!({"done": yes, "plan": plan, "survey": own_survey}),
        || plan_text(&plan, yes),
    )?;
    Ok(())
}

fn plan_text(plan: &RecoveryPlan, is_done: bool) -> String {
    let mut text = format!("cluster {}, on {}\n", plan.cluster, plan.node);
    text += &format!("plan {}: the same on every survivor\n", plan.digest);
    text += &control_text(plan);
    let mut may_lose_data = false;
    for (shard, fate) in &plan.shards {
        may_lose_data |= matches!(fate, ShardRecovery::Recovered { .. } | ShardRecovery::Empty);
        text += &format!("s{shard}  {}\n", shard_recovery_text(fate));
    }
    if may_lose_data {
        text += "lost: the messages that the lost nodes acknowledged after the entries above, and all messages \
                 in `memory` namespaces. Every topic of these shards starts a new epoch: its \
                 subscribers receive a gap\n";
    }
    if !plan.unreadable.is_empty() {
        text += "lost as well: these replicas, which cannot be read:\n";
    }
    for UnreadableReplica { shard, node, reason } in &plan.unreadable {
        text += &format!("s{shard} on {node}  {reason}\n");
    }
    text += match is_done {
        true => "done; start this node again, then let new nodes join\n",
        false => "nothing was changed; make sure that the lost nodes cannot run, then add --yes\n",
    };
    text
}

/// The lines about the control group and the lost members.
fn control_text(plan: &RecoveryPlan) -> String {
    let lost: Vec<_> = plan.lost.iter().map(ToString::to_string).collect();
    let (verb, stay_phrase) =
        if lost.len() == 1 { ("is", "stays a member") } else { ("are", "stay members") };
    let lost = lost.join(", ");
    let removed =
        format!("{lost} {verb} removed permanently, and must be wiped before they join again\n");
    match plan.control {
        Some(node) if node == plan.node => {
            removed + "the control group continues on this node from its last entry here\n"
        }
        Some(node) => {
            removed
                + &format!("the control group is recovered on {node}: run this command there too\n")
        }
        None => format!(
            "the control group has its majority, and continues when the survivors run again\n\
             {lost} {stay_phrase} until then, and must not run: remove each with `pushonce cluster remove`\n"
        ),
    }
}

fn shard_recovery_text(fate: &ShardRecovery) -> String {
    match fate {
        ShardRecovery::HasMajority => "has its majority, and continues".to_owned(),
        ShardRecovery::Recovered {
            last_index: last,
            topics,
            messages,
            is_incomplete: incomplete,
        } => {
            let damage_note = if *incomplete {
                "; this replica was damaged and lacks further messages"
            } else {
                ""
            };
            format!(
                "recovered as of entry {last}: {topics} topics, {messages} messages{damage_note}"
            )
        }
        ShardRecovery::Empty => "has no surviving replica: starts empty".to_owned(),
        ShardRecovery::RecoveredElsewhere { node } => {
            format!("is recovered on {node}: run this command there too")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use pushonce_core::NodeId;

    use super::*;

    #[test]
    fn plan_text_lists_possible_losses_before_anything_changes() {
        let recovered = ShardRecovery::Recovered {
            last_index: 41,
            topics: 2,
            messages: 9,
            is_incomplete: false,
        };
        let mut plan = RecoveryPlan {
            digest: "1a2b3c4d".to_owned(),
            cluster: "c0".to_owned(),
            node: NodeId(1),
            lost: BTreeSet::from([NodeId(2), NodeId(3)]),
            control: Some(NodeId(1)),
            shards: BTreeMap::from([
                (0, recovered),
                (1, ShardRecovery::Empty),
                (2, ShardRecovery::HasMajority),
                (3, ShardRecovery::RecoveredElsewhere { node: NodeId(4) }),
            ]),
            unreadable: vec![UnreadableReplica {
                shard: 1,
                node: NodeId(4),
                reason: "torn".to_owned(),
            }],
        };
        let text = plan_text(&plan, false);
        for part in [
            "plan 1a2b3c4d: the same on every survivor\n",
            "n2, n3 are removed permanently",
            "s0  recovered as of entry 41: 2 topics, 9 messages\n",
            "s1  has no surviving replica: starts empty\n",
            "s3  is recovered on n4",
            "s1 on n4  torn\n",
            "nothing was changed",
            "subscribers receive a gap",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(plan_text(&plan, true).contains("start this node again"));
        plan.control = None;
        let text = plan_text(&plan, false);
        assert!(text.contains("continues when"), "{text}");
        assert!(text.contains("n2, n3 stay members until then, and must not run"), "{text}");
        assert!(!text.contains("removed permanently"), "{text}");
    }
}
