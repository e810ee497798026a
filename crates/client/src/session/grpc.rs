//! A session over gRPC: one call per topic on one connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use pushonce_core::{SubscribeOptions, Topic};
use pushonce_proto::client::{ErrorCode, ServerEvent};
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::publisher;
use pushonce_proto::status::{describe, error_chain};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tower::util::ServiceExt as _;

use super::certificate_check::CertificateCheck;
use super::connect_error::ConnectError;
use super::protocol_check::{CheckedStream, Protocol, ProtocolCheck};
use super::trust::DevelopmentCertificate;
use super::{CONNECT_TIMEOUT, CertificateTrust, SessionEnd};
use crate::resume_state::SubscriptionRequest;
use crate::server_address::{Scheme, ServerAddress};
use crate::token::{self, TokenError, TokenProvider};

/// Maximum number of queued events, as for QUIC.
const EVENTS_MAX: usize = 256;

/// Fits a payload of 1 MiB with the other fields of a message.
const FRAME_BYTES_MAX: usize = 2 << 20;

pub(crate) struct Session {
    channel: GrpcChannel,
    events: mpsc::Receiver<Result<ServerEvent, SessionEnd>>,
    send: mpsc::Sender<Result<ServerEvent, SessionEnd>>,
    /// The calls, one for each topic; aborted with the session.
    calls: HashMap<Topic, AbortOnDropHandle<()>>,
    token: Option<TokenProvider>,
}

/// A connection to the gRPC port of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct GrpcChannel {
    channel: Channel,
    protocol: Arc<ProtocolCheck>,
}

impl GrpcChannel {
    /// The channel for one call.
    pub(crate) fn get(&self) -> Channel {
        self.channel.clone()
    }

    /// Why no call can succeed, once the first one has failed because the server does not speak gRPC.
    pub(crate) fn wrong_protocol(&self) -> Option<String> {
        self.protocol.rejection()
    }
}

/// Opens a connection that detects within seconds that its peer is gone.
pub(crate) async fn connect_kept_alive(
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> Result<GrpcChannel, ConnectError> {
    open_channel(server, trust, |endpoint| {
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
    })
    .await
}

/// Connects to a gRPC server, with TLS at an `https://` address. `configure` sets the timeouts.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_with(
    server: &ServerAddress,
    trust: &CertificateTrust,
    configure: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, ConnectError> {
    Ok(open_channel(server, trust, configure).await?.channel)
}

async fn open_channel(
    server: &ServerAddress,
    trust: &CertificateTrust,
    configure: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<GrpcChannel, ConnectError> {
    let (endpoint, check) = endpoint(server, trust).map_err(ConnectError::Invalid)?;
    let protocol = ProtocolCheck::new(server, Protocol::Http2);
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let check_stream = {
        let protocol = protocol.clone();
        move |stream: TokioIo<TcpStream>| {
            TokioIo::new(CheckedStream::new(stream.into_inner(), protocol.clone()))
        }
    };
    let connector = tcp.map_response(check_stream);
    match configure(endpoint).connect_with_connector(connector).await {
        Ok(channel) => Ok(GrpcChannel { channel, protocol }),
        Err(error) => {
            Err(match (check.and_then(|check| check.rejection()), protocol.rejection()) {
                (Some(rejection), _) => ConnectError::Certificate(rejection),
                (None, Some(rejection)) => ConnectError::Invalid(rejection),
                (None, None) => ConnectError::Unreachable {
                    server: server.clone(),
                    reason: error_chain(&error),
                },
            })
        }
    }
}

/// The endpoint of a gRPC server, and the check of its certificate if it has one.
fn endpoint(
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> Result<(Endpoint, Option<Arc<CertificateCheck>>), String> {
    let endpoint = Endpoint::from_shared(server.to_string()).map_err(|error| error.to_string())?;
    match server.scheme {
        Scheme::Http => Ok((endpoint, None)),
        Scheme::Https => {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let check = trust.check(server, DevelopmentCertificate::Rejected, &provider)?;
            let endpoint = endpoint.tls_config_with_verifier(ClientTlsConfig::new(), check.clone());
            Ok((endpoint.map_err(|error| error_chain(&error))?, Some(check)))
        }
        _ => Err(format!(
            "{server} is not a gRPC address: use https://HOST:PORT or http://HOST:PORT"
        )),
    }
}

impl Session {
    pub(super) async fn open(
        server: &ServerAddress,
        trust: &CertificateTrust,
        token: Option<TokenProvider>,
    ) -> Result<Session, SessionEnd> {
        let channel = connect_kept_alive(server, trust).await?;
        let (send, events) = mpsc::channel(EVENTS_MAX);
        Ok(Session { channel, events, send, calls: HashMap::new(), token })
    }

    pub(super) fn subscribe(&mut self, request: SubscriptionRequest) {
        let (channel, token) = (self.channel.clone(), self.token.clone());
        let topic = request.topic.clone();
        let call = tokio::spawn(run_subscription(channel, token, request, self.send.clone()));
        self.calls.insert(topic, AbortOnDropHandle::new(call));
    }

    /// Ends a call. The confirmation follows the events that are queued already.
    pub(super) fn unsubscribe(&mut self, id: u64, topic: &Topic) {
        self.calls.remove(topic);
        let event = ServerEvent::Unsubscribed { id: Some(id), topic: topic.clone() };
        let events = self.send.clone();
        // Not sent here: the queue may be full, and the caller is its reader.
        tokio::spawn(async move { events.send(Ok(event)).await });
    }

    pub(super) async fn next(&mut self) -> Result<ServerEvent, SessionEnd> {
        // Never `None`: the session holds a sender itself.
        self.events.recv().await.unwrap_or_else(|| Err(SessionEnd::retryable("the session ended")))
    }
}

async fn run_subscription(
    channel: GrpcChannel,
    token: Option<TokenProvider>,
    SubscriptionRequest { id, topic, from, options }: SubscriptionRequest,
    events: mpsc::Sender<Result<ServerEvent, SessionEnd>>,
) {
    let SubscribeOptions { delivery, report_conflated: conflated, .. } = options;
    if options
        != (SubscribeOptions {
            delivery,
            report_conflated: conflated,
            ..SubscribeOptions::default()
        })
    {
        let message =
            "gRPC does not support deltas, datagrams and the audience; use WebSocket or QUIC";
        let event = ServerEvent::error(Some(id), ErrorCode::NotSupported, message);
        return drop(events.send(Ok(event)).await);
    }
    let request = pb::SubscribeRequest {
        topic: topic.to_string(),
        start_from: Some(from.into()),
        delivery: delivery.map_or_else(String::new, |delivery| delivery.to_string()),
        conflated,
    };
    let mut request = Request::new(request);
    if let Err(error) = add_token(token.as_ref(), &mut request).await {
        return drop(events.send(Err(SessionEnd::retryable(error))).await);
    }
    let delivery = delivery.unwrap_or_default();
    let mut client =
        PublisherServiceClient::new(channel.get()).max_decoding_message_size(FRAME_BYTES_MAX);
    let mut responses = match client.subscribe(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            let event = match channel.wrong_protocol() {
                Some(rejection) => Err(SessionEnd::wrong_protocol(rejection)),
                None => rejection_event(id, status),
            };
            return drop(events.send(event).await);
        }
    };
    let mut subscribed = false;
    loop {
        let event = match responses.message().await {
            Ok(Some(response)) => match publisher::SubscribeEvent::try_from(response) {
                Ok(event) => Ok(event.into_server_event(id, topic.clone(), delivery)),
                Err(error) => Err(SessionEnd::retryable(error)),
            },
            Ok(None) => Err(SessionEnd::retryable("the server ended the call")),
            Err(status) if !subscribed => rejection_event(id, status),
            Err(status) => Err(session_end(&status)),
        };
        let is_final = !matches!(
            event,
            Ok(ServerEvent::Subscribed { .. }
                | ServerEvent::Message { .. }
                | ServerEvent::Gap { .. }
                | ServerEvent::Stale { .. }
                | ServerEvent::Live { .. }
                | ServerEvent::Heartbeat { .. })
        );
        subscribed = true;
        if events.send(event).await.is_err() || is_final {
            return;
        }
    }
}

/// Adds the present token to a call, if there is one.
pub(crate) async fn add_token<T>(
    provider: Option<&TokenProvider>,
    request: &mut Request<T>,
) -> Result<(), TokenError> {
    match provider {
        Some(provider) => token::add_to_metadata(&provider.token().await?, request.metadata_mut()),
        None => Ok(()),
    }
}

/// A rejection of the request is an event; any other status ends the session.
fn rejection_event(id: u64, status: Status) -> Result<ServerEvent, SessionEnd> {
    let reason = ErrorReason::from_status(&status);
    let code = match reason.map(|reason| (reason.code, reason.retry_delay)) {
        // The caller exceeded a rate. Another node would count the request as well.
        Some((ErrorCode::Overloaded, Some(delay))) => {
            return Ok(ServerEvent::rate_error(Some(id), describe(&status), delay));
        }
        // Another node may have capacity. The provider of tokens may have a newer one.
        Some((ErrorCode::Overloaded | ErrorCode::TokenExpired, _)) => {
            return Err(session_end(&status));
        }
        Some((code, _)) => code,
        // Not from the node but from the connection: then the next call fails as well.
        None if status.code() == Code::Unavailable => ErrorCode::Unavailable,
        None => return Err(session_end(&status)),
    };
    Ok(ServerEvent::error(Some(id), code, describe(&status)))
}

fn session_end(status: &Status) -> SessionEnd {
    SessionEnd::retryable(describe(status))
}
