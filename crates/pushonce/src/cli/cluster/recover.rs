//! `pushonce cluster recover`: go on after the majority of some groups is lost for good.

use std::path::PathBuf;

use serde_json::json;

use super::super::operator::print;
use crate::node::recover::plan::{Fate, Plan, Unreadable};
use crate::node::recover::{Recovery, Request};

/// The directory of a survivor, and what is lost.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Data directory of this node, which must not run
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Ids or names (n2,n3) of the nodes that are lost for good; they can never come back
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true)]
    lost: Vec<String>,
    /// When several survive: files with what this command prints with --json on each of them, this node
    /// included; the same files on every survivor
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    surveys: Vec<PathBuf>,
    /// Do it; without it you are told what would be done and what may be lost
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let Args { data, lost, surveys, yes } = args;
    let is_survey = surveys.is_empty() && json && !yes;
    let recovery = Recovery::open(&data, &Request { lost, surveys })?;
    let survey = recovery.survey().clone();
    let plan = match recovery.plan() {
        Ok(plan) => plan.clone(),
        // The other survivors need this survey, whatever this one can see alone.
        Err(why) if is_survey => {
            let no_plan = why.to_string();
            let printed = || json!({"done": false, "no_plan": no_plan, "survey": survey});
            print(json, printed, String::new)?;
            return Ok(());
        }
        Err(why) => return Err(why.into()),
    };
    if yes {
        recovery.carry_out()?;
    }
    print(json, || json!({"done": yes, "plan": plan, "survey": survey}), || text(&plan, yes))?;
    Ok(())
}

fn text(plan: &Plan, done: bool) -> String {
    let mut text = format!("cluster {}, on {}\n", plan.cluster, plan.node);
    text += &format!("plan {}: the same on every survivor\n", plan.digest);
    text += &control_text(plan);
    let mut may_lose = false;
    for (shard, fate) in &plan.shards {
        may_lose |= matches!(fate, Fate::Recovered { .. } | Fate::Empty);
        text += &format!("s{shard}  {}\n", fate_text(fate));
    }
    if may_lose {
        text += "Lost are the messages that the lost nodes acknowledged after the entries above, and \
                 all in `memory` namespaces. Every topic of these shards begins a later epoch: its \
                 subscribers are told of a gap\n";
    }
    if !plan.unreadable.is_empty() {
        text += "Lost are also these replicas, which cannot be read:\n";
    }
    for Unreadable { shard, node, why } in &plan.unreadable {
        text += &format!("s{shard} on {node}  {why}\n");
    }
    text += match done {
        true => "done; start this node again, then let new nodes join\n",
        false => "nothing was changed; make sure that the lost nodes cannot run, then add --yes\n",
    };
    text
}

/// What becomes of the control group and of the lost members.
fn control_text(plan: &Plan) -> String {
    let lost: Vec<_> = plan.lost.iter().map(ToString::to_string).collect();
    let (are, stay) =
        if lost.len() == 1 { ("is", "stays a member") } else { ("are", "stay members") };
    let lost = lost.join(", ");
    let removed =
        format!("{lost} {are} removed for ever, and must be wiped before they join again\n");
    match plan.control {
        Some(node) if node == plan.node => {
            removed + "the control group goes on here, as its last entry here has it\n"
        }
        Some(node) => {
            removed + &format!("the control group is recovered on {node}: run this there, too\n")
        }
        None => format!(
            "the control group has its majority, and goes on by itself when the survivors run again\n\
             {lost} {stay} until then, and must not run: take each out with `pushonce cluster remove`\n"
        ),
    }
}

fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::GoesOn => "has its majority, and goes on by itself".to_owned(),
        Fate::Recovered { last, topics, messages, incomplete } => {
            let damaged =
                if *incomplete { "; this replica was damaged, and lacks more" } else { "" };
            format!("recovered as of entry {last}: {topics} topics, {messages} messages{damaged}")
        }
        Fate::Empty => "has no surviving replica: begins empty".to_owned(),
        Fate::Elsewhere { node } => format!("is recovered on {node}: run this there, too"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use pushonce_core::NodeId;

    use super::*;

    #[test]
    fn an_operator_is_told_what_may_be_lost_before_anything_changes() {
        let recovered = Fate::Recovered { last: 41, topics: 2, messages: 9, incomplete: false };
        let mut plan = Plan {
            digest: "1a2b3c4d".to_owned(),
            cluster: "c0".to_owned(),
            node: NodeId(1),
            lost: BTreeSet::from([NodeId(2), NodeId(3)]),
            control: Some(NodeId(1)),
            shards: BTreeMap::from([
                (0, recovered),
                (1, Fate::Empty),
                (2, Fate::GoesOn),
                (3, Fate::Elsewhere { node: NodeId(4) }),
            ]),
            unreadable: vec![Unreadable { shard: 1, node: NodeId(4), why: "torn".to_owned() }],
        };
        let said = text(&plan, false);
        for part in [
            "plan 1a2b3c4d: the same on every survivor\n",
            "n2, n3 are removed for ever",
            "s0  recovered as of entry 41: 2 topics, 9 messages\n",
            "s1  has no surviving replica: begins empty\n",
            "s3  is recovered on n4",
            "s1 on n4  torn\n",
            "nothing was changed",
            "subscribers are told of a gap",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        assert!(text(&plan, true).contains("start this node again"));
        plan.control = None;
        let said = text(&plan, false);
        assert!(said.contains("goes on by itself when"), "{said}");
        assert!(said.contains("n2, n3 stay members until then, and must not run"), "{said}");
        assert!(!said.contains("removed for ever"), "{said}");
    }
}
