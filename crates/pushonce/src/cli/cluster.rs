//! `pushonce cluster`: look at a cluster.

use anyhow::Context as _;
use clap::Subcommand;
use pushonce_proto::pb::cluster::v1::cluster_client::ClusterClient;
use pushonce_proto::pb::cluster::v1::{
    ExplainRequest, ExplainResponse, Member, Shard, StatusRequest, StatusResponse,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

/// What to look at, and whom to ask.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// gRPC address of a node; may be given more than once, the first that answers is asked
    #[arg(
        long,
        global = true,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    server: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Members, the control group, and the shards with their owners and replicas
    Status,
    /// Which shard and which node a topic falls to
    Explain {
        /// The topic
        topic: String,
    },
}

pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let mut client = connect(&args.server).await?;
    match args.command {
        Command::Status => {
            let status = client.status(StatusRequest {}).await.map_err(refused)?.into_inner();
            print(json, || status_json(&status), || status_text(&status));
        }
        Command::Explain { topic } => {
            let request = ExplainRequest { topic };
            let place = client.explain(request).await.map_err(refused)?.into_inner();
            print(json, || explain_json(&place), || explain_text(&place));
        }
    }
    Ok(())
}

pub(super) async fn connect(servers: &[String]) -> anyhow::Result<ClusterClient<Channel>> {
    let mut last = None;
    for server in servers {
        match ClusterClient::connect(server.clone()).await {
            Ok(client) => return Ok(client),
            Err(why) => {
                last = Some(anyhow::Error::new(why).context(format!("cannot reach {server}")))
            }
        }
    }
    Err(last.context("no --server was given")?)
}

pub(super) fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

#[allow(clippy::print_stdout)]
pub(super) fn print(json: bool, machine: impl Fn() -> Value, person: impl Fn() -> String) {
    if json { println!("{}", machine()) } else { print!("{}", person()) }
}

fn node(id: u64) -> String {
    if id == 0 { "-".to_owned() } else { format!("n{id}") }
}

fn nodes(ids: &[u64]) -> String {
    if ids.is_empty() {
        "-".to_owned()
    } else {
        ids.iter().map(|&id| node(id)).collect::<Vec<_>>().join(" ")
    }
}

fn status_text(status: &StatusResponse) -> String {
    let mut text = format!(
        "cluster {}  (asked {}, view {}, placement {})\n\nmembers\n",
        status.cluster_id,
        node(status.node_id),
        status.version,
        status.placement_version,
    );
    let rows = status.members.iter().map(member_row).collect();
    text +=
        &table(["id", "name", "state", "link", "region", "zone", "roles", "grpc", "http"], rows);
    text += &format!(
        "\ncontrol  leader {}, term {}, voters {}, learners {}, applied {}\n\nshards\n",
        node(status.control_leader),
        status.control_term,
        nodes(&status.control_voters),
        nodes(&status.control_learners),
        status.control_applied,
    );
    let rows = status.shards.iter().map(shard_row).collect();
    text += &table(["shard", "owner", "term", "replicas", "learning", "wanted", ""], rows);
    let moving = status.shards.iter().filter(|shard| shard.moving).count();
    text += &match moving {
        0 => "\nnothing is moving\n".to_owned(),
        n => format!("\n{n} of {} shards are moving\n", status.shards.len()),
    };
    text
}

fn member_row(member: &Member) -> [String; 9] {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        node(member.id),
        member.name.clone(),
        member.state.clone(),
        if member.reachable { "up" } else { "down" }.to_owned(),
        or_dash(&member.region),
        or_dash(&member.zone),
        member.roles.clone(),
        member.grpc_address.clone(),
        member.http_address.clone(),
    ]
}

fn shard_row(shard: &Shard) -> [String; 7] {
    [
        format!("s{}", shard.id),
        node(shard.owner),
        shard.term.to_string(),
        nodes(&shard.voters),
        nodes(&shard.learners),
        nodes(&shard.wanted),
        if shard.moving { "moving" } else { "" }.to_owned(),
    ]
}

/// Columns as wide as their widest cell.
pub(super) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let head = head.map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end();
        text.push('\n');
    }
    text
}

fn status_json(status: &StatusResponse) -> Value {
    let member = |m: &Member| {
        json!({
            "id": m.id, "name": m.name, "state": m.state, "reachable": m.reachable,
            "region": m.region, "zone": m.zone, "roles": m.roles, "weight": m.weight,
            "peer": m.peer_address, "grpc": m.grpc_address, "http": m.http_address,
            "quic": m.quic_address,
        })
    };
    let shard = |s: &Shard| {
        json!({
            "id": s.id, "owner": s.owner, "term": s.term, "voters": s.voters,
            "learners": s.learners, "wanted": s.wanted, "moving": s.moving,
        })
    };
    json!({
        "cluster": status.cluster_id,
        "node": status.node_id,
        "version": status.version,
        "placement_version": status.placement_version,
        "replicas": status.replicas,
        "control": {
            "leader": status.control_leader, "term": status.control_term,
            "voters": status.control_voters, "learners": status.control_learners,
            "applied": status.control_applied,
        },
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
        "shards": status.shards.iter().map(shard).collect::<Vec<_>>(),
    })
}

fn explain_text(place: &ExplainResponse) -> String {
    format!(
        "{}  shard s{}, owner {}, wanted {}\n",
        place.topic,
        place.shard,
        node(place.owner),
        nodes(&place.wanted)
    )
}

fn explain_json(place: &ExplainResponse) -> Value {
    json!({
        "topic": place.topic, "shard": place.shard, "owner": place.owner, "wanted": place.wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cell() {
        let rows = vec![["n1".to_owned(), "eu".to_owned()], ["n12".to_owned(), String::new()]];
        assert_eq!(table(["id", "region"], rows), "  id   region\n  n1   eu\n  n12\n");
    }

    #[test]
    fn nobody_is_a_dash() {
        assert_eq!(node(0), "-");
        assert_eq!(nodes(&[]), "-");
        assert_eq!(nodes(&[1, 3]), "n1 n3");
    }
}
