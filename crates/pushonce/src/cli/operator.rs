//! Shared by the operators' commands: the choice of a server, and the output of its answer.

use std::error::Error as _;
use std::time::Duration;

use anyhow::Context as _;
use pushonce_client::{
    AccessToken, CertificateTrust, ConnectError, InvalidServerAddress, Scheme, ServerAddress,
    connect_grpc,
};
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::cluster::v1::ExplainRequest;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::status::describe;
use serde_json::Value;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::access_token::TokenArgs;
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
    token: TokenArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// A client of the operators' service, which sends the token with each call.
pub(super) type OperatorClient =
    ClusterServiceClient<InterceptedService<Channel, BearerInterceptor>>;

/// Adds a token to the calls of an operator.
#[derive(Clone)]
pub(super) struct BearerInterceptor(Option<AccessToken>);

impl Interceptor for BearerInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let invalid = |_| Status::invalid_argument("the token has invalid characters");
            let value = format!("Bearer {}", token.secret());
            let mut value = MetadataValue::try_from(value).map_err(invalid)?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
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
    pub(super) async fn connect(&self) -> anyhow::Result<OperatorClient> {
        let token = match self.token.provider() {
            Some(provider) => Some(provider.token().await.map_err(anyhow::Error::from_boxed)?),
            None => None,
        };
        let token = BearerInterceptor(token);
        let trust = self.trust.load()?;
        let mut last_error = None;
        for server in &self.server {
            match connect_and_probe(server, &trust, token.clone()).await {
                Ok(client) => return Ok(client),
                // It says what to change.
                Err(error)
                    if matches!(error.downcast_ref(), Some(ConnectError::Certificate(_))) =>
                {
                    last_error = Some(error);
                }
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
    token: BearerInterceptor,
) -> anyhow::Result<OperatorClient> {
    let with_timeouts =
        |endpoint: Endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(COMMAND_TIMEOUT);
    let channel = connect_grpc(server, trust, with_timeouts).await?;
    let mut client = ClusterServiceClient::with_interceptor(channel, token);
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
    if json { output::write_json(to_json()) } else { output::write_text(&to_text()) }
}
