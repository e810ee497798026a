//! What the commands of operators share: whom they ask, and how the answer is given.

use std::error::Error as _;
use std::time::Duration;

use anyhow::Context as _;
use pushonce_client::{InvalidServer, Scheme, Server};
use pushonce_proto::pb::cluster::v1::ExplainRequest;
use pushonce_proto::pb::cluster::v1::cluster_client::ClusterClient;
use pushonce_proto::status::{describe, error_chain};
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::output::{self, OutputError};

/// How long one server may take to connect, and to answer the first question.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a command may take. The slowest waits for a change of the control group.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whom to ask.
#[derive(clap::Args)]
pub(super) struct Asked {
    /// gRPC address of a node; may be given more than once, the first that answers is asked
    #[arg(
        long,
        global = true,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090",
        value_parser = grpc_address
    )]
    server: Vec<Server>,
}

fn grpc_address(text: &str) -> Result<Server, String> {
    let server: Server = text.parse().map_err(|why: InvalidServer| why.to_string())?;
    match server.scheme {
        Scheme::Http => Ok(server),
        _ => Err(format!("{text} is not the gRPC address of a node: write http://HOST:PORT")),
    }
}

impl Asked {
    /// The first that answers.
    pub(super) async fn connect(&self) -> anyhow::Result<ClusterClient<Channel>> {
        let mut last = None;
        for server in &self.server {
            match answering(server).await {
                Ok(client) => return Ok(client),
                Err(why) => {
                    last = Some(why.context(format!(
                        "cannot ask {server}: is it the address of a node's --grpc?"
                    )));
                }
            }
        }
        Err(last.context("no --server was given")?)
    }
}

/// A client of a node that answers a question. A process that is stopped, or is no node, accepts connections
/// as well.
async fn answering(server: &Server) -> anyhow::Result<ClusterClient<Channel>> {
    let endpoint = Endpoint::from_shared(server.to_string())?;
    let endpoint = endpoint.connect_timeout(PATIENCE).timeout(DEADLINE);
    let channel = endpoint.connect().await.map_err(|why| anyhow::anyhow!(error_chain(&why)))?;
    let mut client = ClusterClient::new(channel);
    let question = ExplainRequest { topic: "pushonce".to_owned() };
    let answer = timeout(PATIENCE, client.explain(question)).await;
    match answer.with_context(|| format!("it does not answer within {PATIENCE:?}"))? {
        // Refusals are answers, of which the command itself gets another.
        Err(status) if !is_refusal(&status) => Err(refused(status)),
        _ => Ok(client),
    }
}

/// Whether a node said it, and not the transport or something else that speaks HTTP/2.
fn is_refusal(status: &Status) -> bool {
    status.source().is_none() && status.code() != Code::Unimplemented
}

/// Why a node did not do it, in its words.
pub(super) fn refused(status: Status) -> anyhow::Error {
    anyhow::anyhow!(describe(&status))
}

/// The answer, for a machine or for a person.
pub(super) fn print(
    json: bool,
    machine: impl Fn() -> Value,
    person: impl Fn() -> String,
) -> Result<(), OutputError> {
    if json { output::line(machine()) } else { output::write(person().as_bytes()) }
}
