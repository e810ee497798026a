//! The connection of a publisher: to one server at a time, the next one after a failure.

use std::time::Duration;

use pushonce_proto::client::ErrorCode;
use pushonce_proto::publisher::PublishFailure;
use tokio::sync::Mutex;
use tonic::{Code, Request};

use super::PublisherSettings;
use crate::server_address::ServerAddress;
use crate::session::{ConnectError, GrpcChannel, add_token, connect_grpc_kept_alive};

/// State shared by publishers and their streams.
#[derive(Debug)]
pub(crate) struct PublisherShared {
    /// At least one, each a gRPC address.
    servers: Vec<ServerAddress>,
    pub(crate) settings: PublisherSettings,
    current: Mutex<CurrentConnection>,
}

/// The connection in use, and the index of its server.
#[derive(Debug, Default)]
struct CurrentConnection {
    server: usize,
    channel: Option<GrpcChannel>,
}

impl PublisherShared {
    pub(crate) fn new(servers: Vec<ServerAddress>, settings: PublisherSettings) -> PublisherShared {
        PublisherShared { servers, settings, current: Mutex::default() }
    }

    pub(crate) fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// The time in which a message must be acknowledged.
    pub(crate) fn deadline(&self) -> Duration {
        self.settings.deadline
    }

    /// Adds the present token to a call, if there is one.
    pub(crate) async fn add_token<T>(
        &self,
        request: &mut Request<T>,
    ) -> Result<(), PublishFailure> {
        add_token(self.settings.token.as_ref(), request).await.map_err(|error| {
            PublishFailure::Rejected {
                code: Code::Unauthenticated,
                reason: ErrorCode::Unavailable,
                message: format!("there is no token: {error}"),
                retry: true,
            }
        })
    }

    /// The connection in use, or a new one to the next reachable server.
    pub(crate) async fn channel(&self) -> Result<(usize, GrpcChannel), PublishFailure> {
        let mut current = self.current.lock().await;
        if let Some(channel) = &current.channel {
            return Ok((current.server, channel.clone()));
        }
        let (mut last, mut is_retryable) = (None, false);
        for _ in &self.servers {
            let at = current.server % self.servers.len();
            // Advanced before the attempt, so that a cancelled attempt is not repeated first.
            current.server = at + 1;
            match connect_grpc_kept_alive(&self.servers[at], &self.settings.trust).await {
                Ok(channel) => {
                    current.server = at;
                    current.channel = Some(channel.clone());
                    return Ok((at, channel));
                }
                Err(error) => {
                    is_retryable |= error.is_retryable();
                    last = Some(error);
                }
            }
        }
        let reason = last.map_or_else(String::new, |error: ConnectError| error.to_string());
        Err(no_reachable_server(&reason, is_retryable))
    }

    /// Switches to the next server, unless another caller already did.
    pub(crate) async fn switch_from(&self, server: usize) {
        let mut current = self.current.lock().await;
        if current.server == server {
            current.server = (server + 1) % self.servers.len();
            current.channel = None;
        }
    }

    /// The rejection of a message that did not reach a server because the call failed with `reason`, after switching
    /// to the next server.
    pub(crate) async fn on_unreachable(
        &self,
        server: usize,
        channel: &GrpcChannel,
        reason: &str,
    ) -> PublishFailure {
        self.switch_from(server).await;
        match channel.wrong_protocol() {
            // The other servers may be usable.
            Some(rejection) => no_reachable_server(&rejection, self.servers.len() > 1),
            None => no_reachable_server(reason, true),
        }
    }
}

/// The rejection of a message for which there was no connection.
pub(crate) fn no_reachable_server(reason: &str, retry: bool) -> PublishFailure {
    PublishFailure::Rejected {
        code: Code::Unavailable,
        reason: ErrorCode::Unavailable,
        message: format!("no server can be reached: {reason}"),
        retry,
    }
}
