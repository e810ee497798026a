//! Shared by the operators' commands: the choice of a server, and the output of its answer.

use std::error::Error as _;
use std::time::Duration;

use anyhow::Context as _;
use pushonce_client::{
    CertificateTrust, InvalidServerAddress, Scheme, ServerAddress, grpc_endpoint,
};
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::cluster::v1::ExplainRequest;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::status::{describe, error_chain};
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::trust::TrustArgs;
use crate::output::{self, OutputError};

/// Timeout for connecting to one server and for its first answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of a command. The slowest one waits for a change of the control group.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The servers to ask.
#[derive(clap::Args)]
pub(super) struct ServerArgs {
    /// gRPC address of a node; may be repeated, the first node that answers is used
    #[arg(
        long,
        global = true,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090",
        value_parser = parse_grpc_server
    )]
    server: Vec<ServerAddress>,
    #[command(flatten)]
    trust: TrustArgs,
}

fn parse_grpc_server(text: &str) -> Result<ServerAddress, String> {
    let server: ServerAddress =
        text.parse().map_err(|error: InvalidServerAddress| error.to_string())?;
    match server.scheme {
        Scheme::Http | Scheme::Https => Ok(server),
        _ => Err(format!(
            "{text} is not the gRPC address of a node: write https://HOST:PORT or http://HOST:PORT"
        )),
    }
}

impl ServerArgs {
    /// Connects to the first server that answers.
    pub(super) async fn connect(&self) -> anyhow::Result<ClusterServiceClient<Channel>> {
        let trust = self.trust.load()?;
        let mut last_error = None;
        for server in &self.server {
            match connect_and_probe(server, &trust).await {
                Ok(client) => return Ok(client),
                Err(error) => {
                    last_error = Some(error.context(format!(
                        "cannot query {server}: is it the address of a node's --grpc?"
                    )));
                }
            }
        }
        Err(last_error.context("no --server was given")?)
    }
}

/// A client of a node that answers a request. A stopped process, or a server that is not a node, accepts
/// connections as well.
async fn connect_and_probe(
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> anyhow::Result<ClusterServiceClient<Channel>> {
    let endpoint = grpc_endpoint(server, trust).map_err(anyhow::Error::msg)?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(COMMAND_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| anyhow::anyhow!(error_chain(&error)))?;
    let mut client = ClusterServiceClient::new(channel);
    let probe = ExplainRequest { topic: "pushonce".to_owned() };
    let response = timeout(CONNECT_TIMEOUT, client.explain(probe)).await;
    match response.with_context(|| format!("it does not answer within {CONNECT_TIMEOUT:?}"))? {
        // A rejection is an answer; the command itself gets its own.
        Err(status) if !is_node_response(&status) => Err(status_error(status)),
        _ => Ok(client),
    }
}

/// Whether the status comes from a node, and not from the transport or another HTTP/2 server.
fn is_node_response(status: &Status) -> bool {
    status.source().is_none() && status.code() != Code::Unimplemented
}

/// The error with which a node rejected a command: its text and its code word.
pub(super) fn status_error(status: Status) -> anyhow::Error {
    match ErrorReason::from_status(&status) {
        Some(reason) => anyhow::anyhow!("{} ({})", describe(&status), reason.code),
        None => anyhow::anyhow!(describe(&status)),
    }
}

/// Prints the answer as JSON or as text.
pub(super) fn print_output(
    json: bool,
    to_json: impl Fn() -> Value,
    to_text: impl Fn() -> String,
) -> Result<(), OutputError> {
    if json { output::write_line(to_json()) } else { output::write(to_text().as_bytes()) }
}
