//! `pushonce cluster recover`: go on after the majority of the control group is lost for good.

use std::path::PathBuf;

use serde_json::json;

use super::super::operator::print;
use crate::node::recover::plan::{Fate, NoPlan, Plan};
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
    let recovery = Recovery::open(&data, &Request { lost, surveys })?;
    let survey = recovery.survey().clone();
    let plan = match recovery.plan() {
        Ok(plan) => plan.clone(),
        // What the other survivors need to know of this one.
        Err(NoPlan::Unsurveyed(_)) if json && !yes => {
            print(json, || json!({"done": false, "survey": survey}), String::new)?;
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
    let lost: Vec<_> = plan.lost.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "cluster {}, on {}\n{} {} removed for ever, and must be wiped before they join again\n",
        plan.cluster,
        plan.node,
        lost.join(", "),
        if lost.len() == 1 { "is" } else { "are" },
    );
    text += &match plan.control == plan.node {
        true => "the control group goes on here, as its last entry here has it\n".to_owned(),
        false => {
            format!("the control group is recovered on {}: run this there, too\n", plan.control)
        }
    };
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
    text += match done {
        true => "done; start this node again, then let new nodes join\n",
        false => "nothing was changed; make sure that the lost nodes cannot run, then add --yes\n",
    };
    text
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
        let plan = Plan {
            cluster: "c0".to_owned(),
            node: NodeId(1),
            lost: BTreeSet::from([NodeId(2), NodeId(3)]),
            control: NodeId(1),
            shards: BTreeMap::from([
                (0, recovered),
                (1, Fate::Empty),
                (2, Fate::GoesOn),
                (3, Fate::Elsewhere { node: NodeId(4) }),
            ]),
        };
        let said = text(&plan, false);
        for part in [
            "n2, n3 are removed for ever",
            "s0  recovered as of entry 41: 2 topics, 9 messages\n",
            "s1  has no surviving replica: begins empty\n",
            "s3  is recovered on n4",
            "nothing was changed",
            "subscribers are told of a gap",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        assert!(text(&plan, true).contains("start this node again"));
    }
}
