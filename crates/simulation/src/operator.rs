//! Commands of operators, sent to the nodes over gRPC as the command line does.

use std::time::Duration;

use pushonce_cluster_tests::Ports;
use pushonce_proto::pb::cluster::v1 as pb;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::schedule::Command;

/// The time limit of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts for one command, and the pause between them.
const ATTEMPTS_MAX: usize = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The state of the cluster as the first of `nodes` knows it that answers.
///
/// # Errors
/// When none answers; the reason of the last.
pub async fn status(nodes: &[Ports]) -> Result<pb::StatusResponse, String> {
    let mut reason = "there is no node".to_owned();
    for node in nodes {
        match status_of(*node).await {
            Ok(status) => return Ok(status),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

/// The state of the cluster as a node knows it.
///
/// # Errors
/// When the node does not answer.
pub async fn status_of(node: Ports) -> Result<pb::StatusResponse, String> {
    let mut client = connect(node).await?;
    let call = client.status(pb::StatusRequest {});
    let answer = timeout(CALL_TIMEOUT, call).await.map_err(|_| "no answer".to_owned())?;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

async fn connect(node: Ports) -> Result<ClusterServiceClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.grpc));
    let endpoint = endpoint.map_err(|error| error.to_string())?.connect_timeout(CALL_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    Ok(ClusterServiceClient::new(channel))
}

/// Repeats a command until a node has carried it out or rejected it. Nodes are named by `names`.
///
/// # Errors
/// When it was rejected, or no node carried it out in time.
pub async fn run(command: Command, nodes: Vec<Ports>, names: Vec<String>) -> Result<(), String> {
    let mut reason = String::new();
    for attempt in 0..ATTEMPTS_MAX {
        let node = nodes[attempt % nodes.len()];
        match timeout(CALL_TIMEOUT, attempt_once(&command, node, &names)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Failure::Rejected(error))) => return Err(error),
            Ok(Err(Failure::Retryable(error))) => reason = error,
            Err(_) => reason = "no answer".to_owned(),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(reason)
}

enum Failure {
    Rejected(String),
    Retryable(String),
}

async fn attempt_once(command: &Command, node: Ports, names: &[String]) -> Result<(), Failure> {
    let mut client = connect(node).await.map_err(Failure::Retryable)?;
    let answer = match command {
        Command::History { namespace, messages } => {
            let change =
                pb::NamespaceChange { history_count_max: Some(*messages), ..Default::default() };
            client.set_namespace(set_namespace(namespace, change)).await.map(drop)
        }
        Command::Durability { namespace, in_memory } => {
            let durability = if *in_memory { "memory" } else { "replicated" };
            let change = pb::NamespaceChange {
                durability: Some(durability.to_owned()),
                ..Default::default()
            };
            client.set_namespace(set_namespace(namespace, change)).await.map(drop)
        }
        Command::Drain { node: drained } => {
            let node = id_of(node, &names[*drained]).await?;
            client.drain(pb::DrainRequest { node, force: false }).await.map(drop)
        }
        Command::Undrain { node: drained } => {
            let node = id_of(node, &names[*drained]).await?;
            client.undrain(pb::UndrainRequest { node }).await.map(drop)
        }
        Command::Remove { node: removed } => {
            let node = id_of(node, &names[*removed]).await?;
            client.remove(pb::RemoveRequest { node, force: false }).await.map(drop)
        }
        Command::ElectionMax { ms } => {
            let times = pushonce_core::ConsensusTimes {
                election_max_ms: *ms,
                ..pushonce_core::ConsensusTimes::LAN
            };
            client.set_times(pb::SetTimesRequest { times: Some(times.into()) }).await.map(drop)
        }
        Command::Finalize => client.finalize(pb::FinalizeRequest {}).await.map(drop),
        Command::Join => Ok(()),
    };
    answer.map_err(|status| match status.code() {
        // Its copies still move away.
        Code::FailedPrecondition if matches!(command, Command::Remove { .. }) => {
            Failure::Retryable(status.to_string())
        }
        Code::InvalidArgument | Code::FailedPrecondition => Failure::Rejected(status.to_string()),
        _ => Failure::Retryable(status.to_string()),
    })
}

fn set_namespace(name: &str, change: pb::NamespaceChange) -> pb::SetNamespaceRequest {
    pb::SetNamespaceRequest { name: Some(name.to_owned()), change: Some(change), force: false }
}

/// Removes a member that will not come back.
///
/// # Errors
/// When no node carries it out.
pub async fn remove_lost(node: Ports, id: u64) -> Result<(), String> {
    let mut client = connect(node).await?;
    let request = pb::RemoveRequest { node: id, force: true };
    let answer = timeout(CALL_TIMEOUT, client.remove(request)).await;
    let answer = answer.map_err(|_| "no answer".to_owned())?;
    answer.map(drop).map_err(|status| status.to_string())
}

async fn id_of(node: Ports, name: &str) -> Result<u64, Failure> {
    let status = status_of(node).await.map_err(Failure::Retryable)?;
    let member = status.members.iter().find(|member| member.name == name);
    member.map(|member| member.id).ok_or(Failure::Rejected(format!("no member is named {name}")))
}
