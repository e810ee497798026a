//! What the commands of operators share: whom they ask, and how the answer is given.

use anyhow::Context as _;
use pushonce_proto::pb::cluster::v1::cluster_client::ClusterClient;
use pushonce_proto::status::describe;
use serde_json::Value;
use tonic::transport::Channel;

use crate::output::{self, OutputError};

/// Whom to ask.
#[derive(clap::Args)]
pub(super) struct Asked {
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

impl Asked {
    /// The first that answers.
    pub(super) async fn connect(&self) -> anyhow::Result<ClusterClient<Channel>> {
        let mut last = None;
        for server in &self.server {
            match ClusterClient::connect(server.clone()).await {
                Ok(client) => return Ok(client),
                Err(why) => {
                    last = Some(anyhow::Error::new(why).context(format!("cannot reach {server}")))
                }
            }
        }
        Err(last.context("no --server was given")?)
    }
}

/// Why a node did not do it, in its words.
pub(super) fn refused(status: tonic::Status) -> anyhow::Error {
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
