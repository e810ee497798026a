//! One session with one node, whatever it is carried by.

mod grpc;
mod quic;
mod trust;
mod ws;

use std::time::Duration;

use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ServerEvent};
use pushonce_proto::close::{self, Reconnect};

use crate::resume_state::SubscriptionRequest;
use crate::server_address::{Scheme, ServerAddress};

pub(crate) use grpc::connect as grpc_connect;
pub use trust::CertificateTrust;

/// What carries a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket: for the many.
    #[default]
    Ws,
    /// QUIC: a stream a topic, so that a loss in one does not hold up the others.
    Quic,
    /// gRPC: for back ends; one call a topic.
    Grpc,
}

impl Transport {
    /// Whether it is spoken at addresses of this scheme.
    pub(crate) fn supports_scheme(self, scheme: Scheme) -> bool {
        match self {
            Transport::Ws => matches!(scheme, Scheme::Http | Scheme::Ws),
            Transport::Quic => scheme == Scheme::Quic,
            Transport::Grpc => scheme == Scheme::Http,
        }
    }

    /// How its addresses are written.
    pub(crate) fn address_form(self) -> &'static str {
        match self {
            Transport::Ws => "WebSocket takes ws://HOST:PORT or http://HOST:PORT of --http",
            Transport::Quic => "QUIC takes quic://HOST:PORT of --quic",
            Transport::Grpc => "gRPC takes http://HOST:PORT of --grpc",
        }
    }
}

/// How to reach a server.
#[derive(Clone, Debug)]
pub(crate) struct ConnectOptions {
    pub(crate) transport: Transport,
    pub(crate) trust: CertificateTrust,
    pub(crate) encoding: Encoding,
}

/// How a session ended, and what to do about it.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    pub(crate) reason: String,
    pub(crate) reconnect: Reconnect,
}

/// An open session.
pub(crate) enum Session {
    Ws(Box<ws::Session>),
    Quic(quic::Session),
    Grpc(grpc::Session),
}

/// A connection that is not there after this is not waited for: another node may answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server says something every 25 s. Silence for two and a half of that is the end: a connection
/// that died without a word looks just like one that has nothing to say.
const IDLE_TIMEOUT: Duration = Duration::from_millis(62_500);

impl Session {
    pub(crate) async fn open(
        options: &ConnectOptions,
        server: &ServerAddress,
    ) -> Result<Session, SessionEnd> {
        let opening = async {
            Ok(match options.transport {
                Transport::Ws => {
                    Session::Ws(Box::new(ws::Session::open(server, options.encoding).await?))
                }
                Transport::Quic => {
                    Session::Quic(quic::Session::open(server, &options.trust).await?)
                }
                Transport::Grpc => Session::Grpc(grpc::Session::open(server).await?),
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| {
            Err(SessionEnd::retryable(format!("no answer within {CONNECT_TIMEOUT:?}")))
        })
    }

    /// Asks for a topic. The answer comes as an event.
    pub(crate) async fn subscribe(
        &mut self,
        request: SubscriptionRequest,
    ) -> Result<(), SessionEnd> {
        match self {
            Session::Ws(session) => session.send(&request.into()).await,
            Session::Quic(session) => session.send(&request.into()).await,
            Session::Grpc(session) => {
                session.subscribe(request);
                Ok(())
            }
        }
    }

    /// The next event, or the end. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<ServerEvent, SessionEnd> {
        let next = async {
            match self {
                Session::Ws(session) => session.next().await,
                Session::Quic(session) => session.next().await,
                Session::Grpc(session) => session.next().await,
            }
        };
        tokio::time::timeout(IDLE_TIMEOUT, next)
            .await
            .unwrap_or_else(|_| Err(SessionEnd::retryable(format!("silence for {IDLE_TIMEOUT:?}"))))
    }
}

impl SessionEnd {
    /// Something broke: try again.
    pub(crate) fn retryable(reason: impl std::fmt::Display) -> SessionEnd {
        SessionEnd { reason: reason.to_string(), reconnect: Reconnect::Yes }
    }

    /// It will not be better another time.
    pub(crate) fn permanent(reason: impl std::fmt::Display) -> SessionEnd {
        SessionEnd { reason: reason.to_string(), reconnect: Reconnect::No }
    }

    /// What a close code asks for.
    pub(crate) fn from_close_code(code: u16, reason: &str) -> SessionEnd {
        let reconnect = close::from_code(code).map_or(Reconnect::Yes, |close| close.reconnect);
        SessionEnd { reason: format!("the server closed the session: {code} {reason}"), reconnect }
    }
}

impl From<SubscriptionRequest> for ClientRequest {
    fn from(
        SubscriptionRequest { id, topic, from, options }: SubscriptionRequest,
    ) -> ClientRequest {
        ClientRequest { id: Some(id), command: ClientCommand::Subscribe { topic, from, options } }
    }
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        let (transport, trust) = (Transport::default(), CertificateTrust::default());
        ConnectOptions { transport, trust, encoding: Encoding::Proto }
    }
}
