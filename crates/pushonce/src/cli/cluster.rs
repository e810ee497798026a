//! `pushonce cluster`: inspects a cluster and changes its members.

mod health;
mod join_token;
mod recover;
mod text;
mod times;

use std::time::Duration;

use clap::Subcommand;
use pushonce_proto::pb::cluster::v1::{
    DrainRequest, ExplainRequest, ExplainResponse, FinalizeRequest, Member, Problem, RemoveRequest,
    Shard, StatusRequest, StatusResponse, UndrainRequest,
};
use serde_json::{Value, json};

use super::operator::{OperatorClient, ServerArgs, print_output, status_error};
use crate::output::{self, OutputError};
pub(super) use text::table;
use text::{explain_text, groups_of_node, node_label, status_text};

/// The subcommand, and the servers to ask.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Show problems, members, the control group, and the shards with their owners and replicas
    ///
    /// The exit status is 0 for a healthy cluster, 3 when everything is served but the next failure may
    /// end that, 4 when some topics cannot be published to or the cluster cannot be changed, and 1 when
    /// no node answers.
    #[command(verbatim_doc_comment)]
    Status,
    /// Check whether the cluster is healthy, or wait until it is; for scripts
    #[command(after_help = health::EXAMPLES)]
    Health(health::Args),
    /// Show the shard and the owner of a topic
    Explain {
        /// Name of the topic
        topic: String,
    },
    /// Move all replicas away from a node, which keeps serving its clients
    Drain {
        /// Id or name of the node
        node: String,
        /// Drain even if the other nodes then hold fewer replicas of each shard than configured
        #[arg(long)]
        force: bool,
        /// Wait until the node holds no replicas
        #[arg(long)]
        wait: bool,
    },
    /// End the draining of a node, so that it holds replicas again
    Undrain {
        /// Id or name of the node
        node: String,
    },
    /// Raise the cluster version when every node runs a build that supports the next one; after that
    /// the older build can no longer run
    Finalize,
    /// Remove a node permanently: a running node after it was drained, a dead node at once
    Remove {
        /// Id or name of the node
        node: String,
        /// Remove even a running node that still holds replicas, or a node that a majority depends on; without
        /// --force the error names the groups and the consequences
        #[arg(long)]
        force: bool,
    },
    /// Change the consensus times of all nodes: leases follow at once, in a safe order; heartbeats and
    /// timeouts of a node follow at its next restart
    SetTimes(times::Args),
    /// Make a token with which one node without a certificate can join, or revoke one
    Token(join_token::Args),
    /// List the join tokens: their ids, when they expire, and which nodes used them
    Tokens,
    /// Restart the groups whose majority is lost permanently: run on the data directory of every survivor
    /// while all of them are stopped
    Recover(recover::Args),
}

pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let command = match args.command {
        // Works offline.
        Command::Recover(args) => return recover::run(args, json),
        command => command,
    };
    if let Command::Health(check) = command {
        return health::run(&args.server, &check, json).await;
    }
    let mut client = args.server.connect().await?;
    match command {
        Command::Recover(_) | Command::Health(_) => {}
        Command::Status => {
            let status = client.status(StatusRequest {}).await.map_err(status_error)?.into_inner();
            print_output(json, || status_json(&status), || status_text(&status))?;
            check_health(&status)?;
        }
        Command::Explain { topic } => {
            let request = ExplainRequest { topic };
            let explanation = client.explain(request).await.map_err(status_error)?.into_inner();
            print_output(json, || explain_json(&explanation), || explain_text(&explanation))?;
        }
        Command::Drain { node: name, force, wait } => {
            let id = resolve_member(&mut client, &name).await?;
            client.drain(DrainRequest { node: id, force }).await.map_err(status_error)?;
            if wait {
                wait_until_empty(&mut client, id).await?;
                print_change(json, id, "drained", "holds no replicas")?;
            } else {
                print_change(json, id, "draining", "is draining: see `pushonce cluster status`")?;
            }
        }
        Command::Undrain { node: name } => {
            let id = resolve_member(&mut client, &name).await?;
            client.undrain(UndrainRequest { node: id }).await.map_err(status_error)?;
            print_change(json, id, "active", "is active")?;
        }
        Command::Finalize => {
            let response =
                client.finalize(FinalizeRequest {}).await.map_err(status_error)?.into_inner();
            let version = response.cluster_version;
            let text = || format!("the cluster has version {version}\n");
            print_output(json, || json!({"cluster_version": version}), text)?;
        }
        Command::Remove { node: name, force } => {
            let id = resolve_member(&mut client, &name).await?;
            if !force {
                drain_if_reachable(&mut client, id).await?;
            }
            client.remove(RemoveRequest { node: id, force }).await.map_err(status_error)?;
            print_change(json, id, "removed", "is removed")?;
        }
        Command::SetTimes(change) => times::set_times(&mut client, change, json).await?,
        Command::Token(args) => join_token::run(&mut client, args, json).await?,
        Command::Tokens => join_token::list(&mut client, json).await?,
    }
    Ok(())
}

/// Time between two checks of the progress of a draining node.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The exit status for the answer of `pushonce cluster status` that reports problems.
#[derive(Debug, thiserror::Error)]
#[error("the cluster is not healthy")]
pub(super) struct Unhealthy(pub(super) u8);

/// Everything is served, but the next failure may end that.
const EXIT_DEGRADED: u8 = 3;

/// Some topics cannot be published to, or the cluster cannot be changed.
const EXIT_UNAVAILABLE: u8 = 4;

fn check_health(status: &StatusResponse) -> Result<(), Unhealthy> {
    let is_unavailable = |problem: &Problem| problem.severity == "unavailable";
    match status.problems.as_slice() {
        [] => Ok(()),
        problems if problems.iter().any(is_unavailable) => Err(Unhealthy(EXIT_UNAVAILABLE)),
        _ => Err(Unhealthy(EXIT_DEGRADED)),
    }
}

/// Drains a running node that holds replicas, and waits until it holds none.
async fn drain_if_reachable(client: &mut OperatorClient, id: u64) -> anyhow::Result<()> {
    let status = client.status(StatusRequest {}).await.map_err(status_error)?.into_inner();
    if held_groups(&status, id).is_empty() {
        return Ok(());
    }
    client.drain(DrainRequest { node: id, force: false }).await.map_err(status_error)?;
    wait_until_empty(client, id).await
}

/// Waits until a draining node holds no replicas, or is not reachable any more. If the command is stopped meanwhile,
/// the node continues to drain, and repeating the command waits again.
async fn wait_until_empty(client: &mut OperatorClient, id: u64) -> anyhow::Result<()> {
    let mut last_held = String::new();
    loop {
        let status = client.status(StatusRequest {}).await.map_err(status_error)?.into_inner();
        let held_groups = held_groups(&status, id);
        if held_groups.is_empty() {
            return Ok(());
        }
        if held_groups != last_held {
            output::notice(format!("{} is draining: still in {held_groups}", node_label(id)));
            last_held = held_groups;
        }
        tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
    }
}

/// The groups of which a reachable node holds replicas, as text.
fn held_groups(status: &StatusResponse, id: u64) -> String {
    let is_reachable = status.members.iter().any(|member| member.id == id && member.reachable);
    if is_reachable { groups_of_node(status, id) } else { String::new() }
}

/// Resolves an id such as `n3`, or the name of a member, to an id.
async fn resolve_member(client: &mut OperatorClient, name: &str) -> anyhow::Result<u64> {
    let status = client.status(StatusRequest {}).await.map_err(status_error)?.into_inner();
    member_id(&status.members, name)
}

fn member_id(members: &[Member], name: &str) -> anyhow::Result<u64> {
    let by_id = name.strip_prefix('n').and_then(|id| id.parse().ok());
    let by_name = members.iter().find(|member| member.name == name).map(|member| member.id);
    match (by_id, by_name) {
        (Some(id), Some(other)) if id != other => anyhow::bail!(
            "{name} is the name of {}, but may also mean the id: rename that node first, or use {}",
            node_label(other),
            node_label(other)
        ),
        (_, Some(id)) | (Some(id), None) => Ok(id),
        (None, None) => anyhow::bail!(
            "no member is called {name:?}: `pushonce cluster status` lists the ids and names"
        ),
    }
}

fn print_change(json: bool, id: u64, state: &str, outcome: &str) -> Result<(), OutputError> {
    print_output(
        json,
        || json!({"node": id, "state": state}),
        || format!("{} {outcome}\n", node_label(id)),
    )
}

fn status_json(status: &StatusResponse) -> Value {
    let member = |m: &Member| {
        json!({
            "id": m.id, "name": m.name, "state": m.state, "reachable": m.reachable,
            "round_trip_us": m.round_trip_us,
            "region": m.region, "zone": m.zone, "roles": m.roles, "weight": m.weight,
            "peer": m.peer_address, "grpc": m.grpc_address, "http": m.http_address,
            "https": Some(&m.https_address).filter(|address| !address.is_empty()),
            "quic": m.quic_address, "release": m.release,
            "versions": {"min": m.version_min, "max": m.version_max},
        })
    };
    let shard = |s: &Shard| {
        json!({
            "id": s.id, "owner": s.owner, "term": s.term, "voters": s.voters,
            "learners": s.learners, "wanted": s.wanted, "moving": s.moving,
            "progress": progress_json(s),
        })
    };
    let problem = |p: &Problem| json!({"severity": p.severity, "kind": p.kind, "text": p.text});
    json!({
        "problems": status.problems.iter().map(problem).collect::<Vec<_>>(),
        "cluster": status.cluster_id,
        "conflicting-cluster": Some(&status.conflicting_cluster_id).filter(|id| !id.is_empty()),
        "node": status.node_id,
        "version": status.version,
        "cluster_version": status.cluster_version,
        "placement_version": status.placement_version,
        "replicas": status.replicas,
        "control": {
            "leader": status.control_leader, "term": status.control_term,
            "voters": status.control_voters, "learners": status.control_learners,
            "applied": status.control_applied,
        },
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
        "shards": status.shards.iter().map(shard).collect::<Vec<_>>(),
        "times": status.times.as_ref().map(times::times_json),
    })
}

fn progress_json(shard: &Shard) -> Value {
    if shard.progress.is_empty() {
        return Value::Null;
    }
    json!({
        "text": shard.progress, "node": shard.progress_node,
        "has": shard.progress_has, "of": shard.progress_of,
    })
}

fn explain_json(explanation: &ExplainResponse) -> Value {
    json!({
        "topic": explanation.topic, "shard": explanation.shard, "owner": explanation.owner, "wanted": explanation.wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_members(names: &[(u64, &str)]) -> Vec<Member> {
        let member = |&(id, name): &(u64, &str)| {
            let name = name.to_owned();
            Member { id, name, ..Member::default() }
        };
        names.iter().map(member).collect()
    }

    #[test]
    fn member_is_resolved_by_its_id_or_its_name() {
        let members = test_members(&[(1, "n1"), (2, "paris")]);
        assert_eq!(member_id(&members, "n1").ok(), Some(1));
        assert_eq!(member_id(&members, "paris").ok(), Some(2));
        assert_eq!(member_id(&members, "n7").ok(), Some(7), "the id of a removed node is valid");
        assert!(member_id(&members, "rome").is_err());
    }

    #[test]
    fn exit_status_follows_the_worst_problem() {
        let status = |severities: &[&str]| StatusResponse {
            problems: severities
                .iter()
                .map(|&severity| Problem { severity: severity.to_owned(), ..Problem::default() })
                .collect(),
            ..StatusResponse::default()
        };
        let code = |severities: &[&str]| {
            check_health(&status(severities)).map_err(|unhealthy| unhealthy.0)
        };
        assert_eq!(code(&[]), Ok(()));
        assert_eq!(code(&["degraded"]), Err(3));
        assert_eq!(code(&["unavailable", "degraded"]), Err(4));
        assert_eq!(code(&["a later severity"]), Err(3));
    }

    #[test]
    fn name_that_equals_the_id_of_another_node_is_ambiguous() {
        let members = test_members(&[(1, "a"), (2, "n3"), (3, "b")]);
        let message = member_id(&members, "n3").unwrap_err().to_string();
        assert!(message.contains("n3 is the name of n2"), "{message}");
    }
}
