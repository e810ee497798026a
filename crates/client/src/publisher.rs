//! Publishing over gRPC.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Acknowledgement, Backoff, InvalidPublish, Publish, PublishError, PublishId};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::publisher::PublishFailure;
use pushonce_proto::status::describe;
use rand::Rng;
use tokio::sync::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::server_address::{Scheme, ServerAddress};
use crate::session::{CertificateTrust, add_token, grpc_connect};
use crate::stream::{PublishCall, PublishStream};
use crate::token::TokenProvider;

/// Publishes to the first of its servers that is available. Cheap to clone; clones share the connection.
///
/// # Example
///
/// ```
/// use pushonce_client::{ContentType, Publish, Publisher, Topic};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let servers = ["http://127.0.0.1:7090", "http://127.0.0.1:7190"];
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let servers = [node.grpc(), node.grpc()];
/// let publisher = Publisher::new([servers[0].parse()?, servers[1].parse()?]);
/// let goal = Publish::new(Topic::new("scores/live")?, ContentType::Json, r#"{"home":1,"away":0}"#);
/// let acknowledgement = publisher.publish(goal).await?;
/// println!("stored at {}", acknowledgement.position);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Publisher {
    shared: Arc<PublisherShared>,
}

/// How a publisher authenticates itself and its servers.
#[derive(Clone, Debug, Default)]
pub struct PublisherOptions {
    /// The source of the access token, which is asked for each publish and stream; `None` to send none.
    pub token: Option<TokenProvider>,
    /// The certificates that servers with `https://` addresses may have.
    pub trust: CertificateTrust,
}

/// State shared by publishers and their streams.
#[derive(Debug)]
pub(crate) struct PublisherShared {
    servers: Vec<ServerAddress>,
    pub(crate) options: PublisherOptions,
    pub(crate) deadline: Duration,
    connection: Mutex<CurrentConnection>,
}

/// The connection in use, and the index of its server.
#[derive(Debug, Default)]
struct CurrentConnection {
    server: usize,
    channel: Option<Channel>,
}

impl Publisher {
    /// Timeout of a publish, after which its outcome is unknown: longer than a shard needs to get a new
    /// owner (2 s) and than the node's own deadline (5 s).
    pub const DEADLINE: Duration = Duration::from_secs(8);

    /// Timeout of one server before the next one is tried: longer than a node looks for an owner (5 s), so
    /// that its rejection is received, which is more specific than a timeout. It leaves time for another
    /// server after one that hangs, and for a shard to get a new owner.
    pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(5_250);

    /// Delays before a message is sent again. Far shorter than those between the sessions of a subscriber: a
    /// shard that moves is back in a second or two, and the caller waits for this message.
    pub(crate) const RETRY_BACKOFF: Backoff =
        Backoff::new(Duration::from_millis(20), Duration::from_millis(500));

    /// Creates a publisher for `servers` (`https://HOST:PORT` or `http://HOST:PORT` of their gRPC ports).
    /// Connects when needed. The first server is used until it fails, then the next one, in turn.
    pub fn new(servers: impl IntoIterator<Item = ServerAddress>) -> Publisher {
        Publisher::with_options(servers, PublisherOptions::default())
    }

    /// Creates a publisher as [`Publisher::new`], with a token or another trust in certificates.
    pub fn with_options(
        servers: impl IntoIterator<Item = ServerAddress>,
        options: PublisherOptions,
    ) -> Publisher {
        let servers = servers.into_iter().collect();
        let (deadline, connection) = (Self::DEADLINE, Mutex::default());
        let shared = PublisherShared { servers, options, deadline, connection };
        Publisher { shared: Arc::new(shared) }
    }

    /// Publishes one message and waits for its acknowledgement.
    ///
    /// After the failure of a server the next one is tried, until the deadline. That is safe even when the
    /// outcome at the previous server is unknown: the cluster recognises the message by its key or, without
    /// a key, by a random nonce that is added here and not sent to subscribers.
    ///
    /// # Errors
    /// [`PublishFailure::Rejected`] when the message was not stored; [`PublishFailure::Unknown`] when it
    /// may have been.
    pub async fn publish(&self, mut publish: Publish) -> Result<Acknowledgement, PublishFailure> {
        publish.validate(Publish::PAYLOAD_BYTES_CAP).map_err(invalid_publish)?;
        if !publish.is_idempotent() {
            publish.publish_id = Some(PublishId::Nonce(rand::rng().random()));
        }
        let request = pb::PublishRequest::from(publish);
        let deadline = tokio::time::Instant::now() + self.shared.deadline;
        let mut backoff = Self::RETRY_BACKOFF;
        let mut unknown_outcome = None;
        loop {
            let failure = match self.try_publish(request.clone(), deadline).await {
                Ok(acknowledgement) => return Ok(acknowledgement),
                Err(failure) => failure,
            };
            let is_retryable = match &failure {
                // The next attempt has a new token.
                PublishFailure::Rejected { reason: ErrorCode::TokenExpired, .. } => {
                    self.shared.options.token.is_some()
                }
                PublishFailure::Rejected { retry, .. } => *retry,
                PublishFailure::Unknown(_) => true,
            };
            if matches!(failure, PublishFailure::Unknown(_)) {
                unknown_outcome = Some(failure.clone());
            }
            let delay = backoff.next_delay(rand::random());
            if !is_retryable || tokio::time::Instant::now() + delay >= deadline {
                // A message that this server rejected may have been stored by an earlier one.
                return Err(unknown_outcome.unwrap_or(failure));
            }
            tokio::time::sleep(delay).await;
        }
    }

    async fn try_publish(
        &self,
        request: pb::PublishRequest,
        deadline: tokio::time::Instant,
    ) -> Result<Acknowledgement, PublishFailure> {
        let found = tokio::time::timeout_at(deadline, self.shared.channel()).await;
        let (server, channel) = found.unwrap_or_else(|_| Err(no_reachable_server("timeout")))?;
        let timeout = deadline.saturating_duration_since(tokio::time::Instant::now());
        let timeout = timeout.min(Self::ATTEMPT_TIMEOUT);
        let mut request = Request::new(request);
        request.set_timeout(timeout);
        self.shared.add_token(&mut request).await?;
        let call = async { PublisherServiceClient::new(channel).publish(request).await };
        let response = match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if is_connect_error(&status) => {
                self.shared.switch_from(server).await;
                return Err(no_reachable_server(&describe(&status)));
            }
            Ok(Err(status)) => {
                let failure = PublishFailure::from(&status);
                // The node is not ready or unreachable: the next attempt goes to another.
                if status.code() == Code::Unavailable
                    || matches!(failure, PublishFailure::Unknown(_))
                {
                    self.shared.switch_from(server).await;
                }
                return Err(failure);
            }
            Err(_) => {
                self.shared.switch_from(server).await;
                return Err(PublishFailure::Unknown("the server did not reply in time".to_owned()));
            }
        };
        Acknowledgement::try_from(response)
            .map_err(|error| PublishFailure::Unknown(error.to_string()))
    }

    /// Opens a stream: messages are sent without waiting for each other, and stored in order and once, over
    /// as many connections as needed.
    ///
    /// # Errors
    /// [`PublishFailure::Rejected`] when no server can be reached.
    pub async fn stream(&self) -> Result<PublishStream, PublishFailure> {
        let mut last = no_usable_server(None);
        for _ in &self.shared.servers {
            match PublishCall::open(&self.shared).await {
                Ok(call) => return Ok(PublishStream::open(self.shared.clone(), call)),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }
}

impl PublisherShared {
    /// Adds the present token to a call, if there is one.
    pub(crate) async fn add_token<T>(
        &self,
        request: &mut Request<T>,
    ) -> Result<(), PublishFailure> {
        add_token(self.options.token.as_ref(), request).await.map_err(|error| {
            PublishFailure::Rejected {
                code: Code::Unauthenticated,
                reason: ErrorCode::Unavailable,
                message: format!("there is no token: {error}"),
                retry: true,
            }
        })
    }

    /// The connection in use, or a new one to the next reachable server.
    pub(crate) async fn channel(&self) -> Result<(usize, Channel), PublishFailure> {
        let mut connection = self.connection.lock().await;
        if let Some(channel) = &connection.channel {
            return Ok((connection.server, channel.clone()));
        }
        let is_grpc = |scheme| matches!(scheme, Scheme::Http | Scheme::Https);
        let wrong_scheme = self.servers.iter().find(|server| !is_grpc(server.scheme));
        if self.servers.is_empty() || wrong_scheme.is_some() {
            return Err(no_usable_server(wrong_scheme));
        }
        let (mut reason, mut is_retryable) = (String::new(), false);
        for _ in &self.servers {
            let server = connection.server % self.servers.len();
            // Advanced before the attempt, so that a cancelled attempt is not repeated first.
            connection.server = server + 1;
            match grpc_connect(&self.servers[server], &self.options.trust).await {
                Ok(channel) => {
                    connection.server = server;
                    connection.channel = Some(channel.clone());
                    return Ok((server, channel));
                }
                Err(error) => {
                    is_retryable |= error.is_retryable();
                    reason = error.to_string();
                }
            }
        }
        match no_reachable_server(&reason) {
            PublishFailure::Rejected { code, reason, message, .. } if !is_retryable => {
                Err(PublishFailure::Rejected { code, reason, message, retry: false })
            }
            failure => Err(failure),
        }
    }

    /// Switches to the next server, unless another caller already did.
    pub(crate) async fn switch_from(&self, server: usize) {
        let mut connection = self.connection.lock().await;
        if connection.server == server {
            connection.server = (server + 1) % self.servers.len().max(1);
            connection.channel = None;
        }
    }
}

/// Whether the connection could not be established, so that the request was never sent.
fn is_connect_error(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The rejection of a message that no server would accept.
pub(crate) fn invalid_publish(error: InvalidPublish) -> PublishFailure {
    PublishFailure::from(pb::PublishFailure::from(&PublishError::from(error)))
}

/// The rejection for an unusable list of servers: it is empty, or contains `wrong_scheme`.
fn no_usable_server(wrong_scheme: Option<&ServerAddress>) -> PublishFailure {
    let reason = match wrong_scheme {
        None => "the list of servers is empty".to_owned(),
        Some(server) => format!("{server} is not a gRPC address"),
    };
    let message = format!("{reason}; give servers as http://HOST:7090");
    PublishFailure::Rejected {
        code: Code::InvalidArgument,
        reason: ErrorCode::BadRequest,
        message,
        retry: false,
    }
}

pub(crate) fn no_reachable_server(reason: &str) -> PublishFailure {
    PublishFailure::Rejected {
        code: Code::Unavailable,
        reason: ErrorCode::Unavailable,
        message: format!("no server can be reached: {reason}"),
        retry: true,
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    #[tokio::test]
    async fn refused_connection_is_a_connect_error_and_a_server_status_is_not() {
        // The listener is closed again: no other process gets the port that soon.
        let address =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let status =
            PublisherServiceClient::new(channel).publish(pb::PublishRequest::default()).await;
        assert!(is_connect_error(&status.unwrap_err()));
        assert!(!is_connect_error(&Status::unavailable("no owner")));
    }
}
