//! Publishing over gRPC.

mod builder;
mod connection;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Acknowledgement, Backoff, InvalidPublish, Publish, PublishError, PublishId};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::publisher::PublishFailure;
use pushonce_proto::status::describe;
use rand::Rng;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::build_error::BuildError;
use crate::metrics;
use crate::server_address::ServerAddress;
use crate::stream::{PublishCall, PublishStream};
pub use builder::PublisherBuilder;
pub(crate) use builder::PublisherSettings;
pub(crate) use connection::{PublisherShared, no_reachable_server};

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
/// let publisher = Publisher::new([servers[0].parse()?, servers[1].parse()?])?;
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

/// A failed attempt, and how long the server wants the publisher to wait before the next one.
struct FailedAttempt {
    failure: PublishFailure,
    delay_min: Duration,
}

impl From<PublishFailure> for FailedAttempt {
    fn from(failure: PublishFailure) -> FailedAttempt {
        FailedAttempt { failure, delay_min: Duration::ZERO }
    }
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

    /// Creates a publisher with the default settings for `servers`: `https://HOST:PORT` or `http://HOST:PORT` of
    /// their gRPC ports. The first server is used until it fails, then the next one, in turn.
    ///
    /// # Errors
    /// [`BuildError`] when no message could ever be published.
    pub fn new(servers: impl IntoIterator<Item = ServerAddress>) -> Result<Publisher, BuildError> {
        Publisher::builder(servers).build()
    }

    /// Creates a builder for a publisher with a token, trust in certificates or other settings.
    pub fn builder(servers: impl IntoIterator<Item = ServerAddress>) -> PublisherBuilder {
        PublisherBuilder::new(servers)
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
        let started = Instant::now();
        let outcome = self.publish_until(publish.into(), started + self.shared.deadline()).await;
        metrics::record_publish(started.elapsed(), &outcome);
        outcome
    }

    async fn publish_until(
        &self,
        request: pb::PublishRequest,
        deadline: Instant,
    ) -> Result<Acknowledgement, PublishFailure> {
        let mut backoff = self.shared.settings.backoff.clone();
        let mut unknown_outcome = None;
        loop {
            let FailedAttempt { failure, delay_min } =
                match self.try_publish(request.clone(), deadline).await {
                    Ok(acknowledgement) => return Ok(acknowledgement),
                    Err(attempt) => attempt,
                };
            let is_retryable = match &failure {
                // The next attempt has a new token.
                PublishFailure::Rejected { reason: ErrorCode::TokenExpired, .. } => {
                    self.shared.settings.token.is_some()
                }
                PublishFailure::Rejected { retry, .. } => *retry,
                PublishFailure::Unknown(_) => true,
            };
            if matches!(failure, PublishFailure::Unknown(_)) {
                unknown_outcome = Some(failure.clone());
            }
            let delay = backoff.next_delay(rand::random()).max(delay_min);
            if !is_retryable || Instant::now() + delay >= deadline {
                // A message that this server rejected may have been stored by an earlier one.
                return Err(unknown_outcome.unwrap_or(failure));
            }
            tokio::time::sleep(delay).await;
        }
    }

    async fn try_publish(
        &self,
        request: pb::PublishRequest,
        deadline: Instant,
    ) -> Result<Acknowledgement, FailedAttempt> {
        let found = tokio::time::timeout_at(deadline, self.shared.channel()).await;
        let (server, channel) =
            found.unwrap_or_else(|_| Err(no_reachable_server("timeout", true)))?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let timeout = timeout.min(Self::ATTEMPT_TIMEOUT);
        let mut request = Request::new(request);
        request.set_timeout(timeout);
        self.shared.add_token(&mut request).await?;
        let call = async { PublisherServiceClient::new(channel.get()).publish(request).await };
        let response = match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if is_connect_error(&status) || channel.wrong_protocol().is_some() => {
                let reason = describe(&status);
                return Err(self.shared.on_unreachable(server, &channel, &reason).await.into());
            }
            Ok(Err(status)) => {
                let failure = PublishFailure::from(&status);
                // The node is not ready or unreachable: the next attempt goes to another.
                if status.code() == Code::Unavailable
                    || matches!(failure, PublishFailure::Unknown(_))
                {
                    self.shared.switch_from(server).await;
                }
                let reason = ErrorReason::from_status(&status);
                let delay_min = reason.and_then(|reason| reason.retry_delay).unwrap_or_default();
                return Err(FailedAttempt { failure, delay_min });
            }
            Err(_) => {
                self.shared.switch_from(server).await;
                let reason = "the server did not reply in time".to_owned();
                return Err(PublishFailure::Unknown(reason).into());
            }
        };
        Acknowledgement::try_from(response)
            .map_err(|error| PublishFailure::Unknown(error.to_string()).into())
    }

    /// Opens a stream: messages are sent without waiting for each other, and stored in order and once, over
    /// as many connections as needed.
    ///
    /// # Errors
    /// [`PublishFailure::Rejected`] when no server can be reached.
    pub async fn stream(&self) -> Result<PublishStream, PublishFailure> {
        let mut attempts = 1;
        loop {
            match PublishCall::open(&self.shared).await {
                Ok(call) => return Ok(PublishStream::open(self.shared.clone(), call)),
                Err(failure) if attempts >= self.shared.server_count() => return Err(failure),
                Err(_) => attempts += 1,
            }
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
