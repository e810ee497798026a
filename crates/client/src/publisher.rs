//! Publishing, over gRPC.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{InvalidPublish, Placed, Publish, PublishError, Stamp};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_client::PublisherClient;
use pushonce_proto::publisher::Failure;
use pushonce_proto::status::describe;
use rand::Rng;
use tokio::sync::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::server::{Scheme, Server};
use crate::session::grpc_connect;
use crate::stream::{Call, PublishStream};

/// Publishes to whichever of its servers answers. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

/// What publishers and their streams share.
pub(crate) struct Shared {
    servers: Vec<Server>,
    pub(crate) deadline: Duration,
    current: Mutex<Current>,
}

/// The connection in use, and whose it is.
#[derive(Default)]
struct Current {
    server: usize,
    channel: Option<Channel>,
}

impl Publisher {
    /// How long a publish may take before its outcome is unknown: longer than a shard takes to get
    /// a new owner (2 s) and the node's own deadline (5 s).
    pub const DEADLINE: Duration = Duration::from_secs(8);

    /// How long one server may take to answer before another is asked as well: longer than a node
    /// looks for an owner (5 s), so that its refusal is heard, which is a better answer than none; and
    /// a server that hangs leaves time for another, and for a shard to get a new owner.
    pub(crate) const PATIENCE: Duration = Duration::from_millis(5_250);

    /// Publishes through `servers` (`http://HOST:PORT` of their gRPC ports); connects when needed.
    pub fn new(servers: Vec<Server>) -> Publisher {
        let current = Mutex::default();
        Publisher { shared: Arc::new(Shared { servers, deadline: Self::DEADLINE, current }) }
    }

    /// Publishes one message and waits for its place.
    ///
    /// No single server's failure is the outcome: the next is asked, until the deadline. That is safe
    /// also where it is unknown what the one before did, because the cluster knows the message again,
    /// by its key or, if it has none, by a nonce that is drawn for it here and that no subscriber
    /// sees.
    ///
    /// # Errors
    /// [`Failure::Refused`] when nothing happened; [`Failure::Unknown`] when it may have.
    pub async fn publish(&self, mut publish: Publish) -> Result<Placed, Failure> {
        publish.check(Publish::PAYLOAD_BYTES_CAP).map_err(invalid)?;
        if !publish.is_repeatable() {
            publish.stamp = Some(Stamp::Nonce(rand::rng().random()));
        }
        let request = pb::PublishRequest::from(publish);
        let deadline = tokio::time::Instant::now() + self.shared.deadline;
        let mut bound = Duration::from_millis(20);
        let mut doubt = None;
        loop {
            let failure = match self.try_once(request.clone(), deadline).await {
                Ok(placed) => return Ok(placed),
                Err(failure) => failure,
            };
            let again = !matches!(failure, Failure::Refused { retry: false, .. });
            if matches!(failure, Failure::Unknown(_)) {
                doubt = Some(failure.clone());
            }
            let pause = bound.mul_f64(rand::rng().random());
            if !again || tokio::time::Instant::now() + pause >= deadline {
                // What one server refused another may have placed before.
                return Err(doubt.unwrap_or(failure));
            }
            tokio::time::sleep(pause).await;
            // Far below a subscriber's: somebody waits for this one message.
            bound = (bound * 2).min(Duration::from_millis(500));
        }
    }

    async fn try_once(
        &self,
        request: pb::PublishRequest,
        deadline: tokio::time::Instant,
    ) -> Result<Placed, Failure> {
        let found = tokio::time::timeout_at(deadline, self.shared.channel()).await;
        let (server, channel) = found.unwrap_or_else(|_| Err(unreachable("none answers")))?;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let left = left.min(Self::PATIENCE);
        let mut request = Request::new(request);
        request.set_timeout(left);
        let call = async { PublisherClient::new(channel).publish(request).await };
        let answer = match tokio::time::timeout(left, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if never_sent(&status) => {
                self.shared.leave(server).await;
                return Err(unreachable(&describe(&status)));
            }
            Ok(Err(status)) => {
                let failure = Failure::from(&status);
                // The node is not up to it, or not there: the next call asks another.
                if status.code() == Code::Unavailable || matches!(failure, Failure::Unknown(_)) {
                    self.shared.leave(server).await;
                }
                return Err(failure);
            }
            Err(_) => {
                self.shared.leave(server).await;
                return Err(Failure::Unknown("the server did not answer in time".to_owned()));
            }
        };
        Placed::try_from(answer).map_err(|why| Failure::Unknown(why.to_string()))
    }

    /// Opens a stream: messages are sent without waiting for each other, and placed in order and once,
    /// over whatever connections that takes.
    ///
    /// # Errors
    /// [`Failure::Refused`] when no server can be reached now.
    pub async fn stream(&self) -> Result<PublishStream, Failure> {
        let mut last = no_usable_server(None);
        for _ in &self.shared.servers {
            match Call::open(&self.shared).await {
                Ok(call) => return Ok(PublishStream::open(self.shared.clone(), call)),
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

impl Shared {
    /// The connection in use, or one to the next server that answers.
    pub(crate) async fn channel(&self) -> Result<(usize, Channel), Failure> {
        let mut current = self.current.lock().await;
        if let Some(channel) = &current.channel {
            return Ok((current.server, channel.clone()));
        }
        let wrong = self.servers.iter().find(|server| server.scheme != Scheme::Http);
        if self.servers.is_empty() || wrong.is_some() {
            return Err(no_usable_server(wrong));
        }
        let mut why = String::new();
        for _ in &self.servers {
            let server = current.server % self.servers.len();
            // Before the attempt: one that is given up in between is not made again first.
            current.server = server + 1;
            match grpc_connect(&self.servers[server]).await {
                Ok(channel) => {
                    current.server = server;
                    current.channel = Some(channel.clone());
                    return Ok((server, channel));
                }
                Err(cause) => why = cause,
            }
        }
        Err(unreachable(&why))
    }

    /// Turns to the next server, unless somebody did already.
    pub(crate) async fn leave(&self, server: usize) {
        let mut current = self.current.lock().await;
        if current.server == server {
            current.server = (server + 1) % self.servers.len().max(1);
            current.channel = None;
        }
    }
}

/// Whether the connection could not even be made again, so that the request is still here.
fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What no server would take is refused without asking one.
pub(crate) fn invalid(why: InvalidPublish) -> Failure {
    Failure::from(pb::PublishFailure::from(&PublishError::from(why)))
}

/// The list of servers is of no use, now and later: it is empty, or this one is `wrong`.
fn no_usable_server(wrong: Option<&Server>) -> Failure {
    let why = match wrong {
        None => "no server to publish to was given".to_owned(),
        Some(server) => format!("{server} takes no publishes by gRPC"),
    };
    let message = format!("{why}; name servers as http://HOST:7090");
    Failure::Refused { code: Code::InvalidArgument, message, retry: false }
}

pub(crate) fn unreachable(why: &str) -> Failure {
    Failure::Refused {
        code: Code::Unavailable,
        message: format!("no server can be reached: {why}"),
        retry: true,
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_refused_has_sent_nothing_and_a_status_of_a_server_says_nothing() {
        // Bound and closed: nobody else gets the port that soon, and nobody listens there.
        let port =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let channel = Endpoint::from_shared(format!("http://{port}")).unwrap().connect_lazy();
        let status = PublisherClient::new(channel).publish(pb::PublishRequest::default()).await;
        assert!(never_sent(&status.unwrap_err()));
        assert!(!never_sent(&Status::unavailable("no owner")));
    }
}
