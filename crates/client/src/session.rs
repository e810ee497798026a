//! One session with one node over any transport.

mod certificate_check;
mod connect_error;
mod fingerprint;
mod grpc;
mod protocol_check;
#[cfg(feature = "quic")]
mod quic;
mod trust;
#[cfg(feature = "websocket")]
mod ws;

use std::fmt;
use std::time::Duration;

use pushonce_core::{Backoff, Topic};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ServerEvent};
use pushonce_proto::close::Reconnect;

use crate::reconnect::RECONNECT_BACKOFF;
use crate::resume_state::SubscriptionRequest;
use crate::server_address::{Scheme, ServerAddress};
use crate::token::TokenProvider;

pub use connect_error::ConnectError;
pub use fingerprint::{CertificateFingerprint, InvalidCertificateFingerprint};
pub use grpc::connect_with as connect_grpc;
pub(crate) use grpc::{GrpcChannel, add_token, connect_kept_alive as connect_grpc_kept_alive};
pub use trust::CertificateTrust;
#[cfg(feature = "websocket")]
pub use ws::connect as connect_http;

/// The transport of a subscription.
///
/// # Example
///
/// A back end that receives the topic over gRPC.
///
/// ```
/// use pushonce_client::{StartFrom, Subscriber, SubscriberEvent, Topic, Transport};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "http://127.0.0.1:7090";
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let server = node.grpc();
/// let mut subscriber = Subscriber::builder([server.parse()?])
///     .transport(Transport::Grpc)
///     .topic(Topic::new("orders/eu")?, StartFrom::Now)
///     .connect()?;
/// while let Some(event) = subscriber.next().await {
///     if let SubscriberEvent::Subscribed { topic, position, .. } = event {
///         println!("{topic}: live after {position}");
/// #       break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// WebSocket: the usual choice, and the default with the feature `websocket`.
    #[cfg(feature = "websocket")]
    #[cfg_attr(feature = "websocket", default)]
    Ws,
    /// QUIC: one stream per topic, so that a loss in one topic does not delay the others. Feature `quic`.
    #[cfg(feature = "quic")]
    Quic,
    /// gRPC: for back ends; one call per topic.
    #[cfg_attr(not(feature = "websocket"), default)]
    Grpc,
}

impl Transport {
    /// The name: `ws`, `quic` or `grpc`.
    pub fn as_str(self) -> &'static str {
        match self {
            #[cfg(feature = "websocket")]
            Transport::Ws => "ws",
            #[cfg(feature = "quic")]
            Transport::Quic => "quic",
            Transport::Grpc => "grpc",
        }
    }

    /// Whether the transport is available at addresses of this scheme.
    pub(crate) fn supports_scheme(self, scheme: Scheme) -> bool {
        match self {
            #[cfg(feature = "websocket")]
            Transport::Ws => {
                matches!(scheme, Scheme::Http | Scheme::Https | Scheme::Ws | Scheme::Wss)
            }
            #[cfg(feature = "quic")]
            Transport::Quic => scheme == Scheme::Quic,
            Transport::Grpc => matches!(scheme, Scheme::Http | Scheme::Https),
        }
    }

    /// The form of its addresses, for error messages.
    pub(crate) fn address_form(self) -> &'static str {
        match self {
            #[cfg(feature = "websocket")]
            Transport::Ws => {
                "WebSocket requires wss://HOST:PORT of --https or ws://HOST:PORT of --http"
            }
            #[cfg(feature = "quic")]
            Transport::Quic => "QUIC requires quic://HOST:PORT of --quic",
            Transport::Grpc => "gRPC requires https://HOST:PORT or http://HOST:PORT of --grpc",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Options for connecting to a server.
#[derive(Clone, Debug)]
pub(crate) struct ConnectOptions {
    pub(crate) transport: Transport,
    pub(crate) trust: CertificateTrust,
    pub(crate) encoding: Encoding,
    pub(crate) token: Option<TokenProvider>,
    /// Timeout for opening a session, after which another server is tried.
    pub(crate) connect_timeout: Duration,
    /// Delays between sessions.
    pub(crate) backoff: Backoff,
}

/// The end of a session, and whether to reconnect.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    pub(crate) reason: String,
    pub(crate) reconnect: Reconnect,
    pub(crate) cause: EndCause,
}

/// What ended a session, where the reaction depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndCause {
    /// The certificate of the server was not accepted.
    Certificate,
    /// The server does not speak the protocol of the transport.
    Protocol,
    Other,
}

/// An open session.
pub(crate) enum Session {
    #[cfg(feature = "websocket")]
    Ws(Box<ws::Session>),
    #[cfg(feature = "quic")]
    Quic(quic::Session),
    Grpc(grpc::Session),
}

/// The id of every request that authenticates a session: above those of subscriptions, and exact in JSON.
pub(crate) const AUTHENTICATE_ID: u64 = (1 << 53) - 1;

/// Timeout for opening a session or a gRPC connection, after which another server is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A session without any frame for this long is closed: servers send something every 25 s, and this is two
/// and a half times that. Without it, a dead connection looks like a quiet one.
const IDLE_TIMEOUT: Duration = Duration::from_millis(62_500);

impl Session {
    pub(crate) async fn open(
        options: &ConnectOptions,
        server: &ServerAddress,
    ) -> Result<Session, SessionEnd> {
        let opening = async {
            Ok::<_, SessionEnd>(match options.transport {
                #[cfg(feature = "websocket")]
                Transport::Ws => Session::Ws(Box::new(ws::Session::open(server, options).await?)),
                #[cfg(feature = "quic")]
                Transport::Quic => {
                    Session::Quic(quic::Session::open(server, &options.trust).await?)
                }
                Transport::Grpc => {
                    let (trust, token) = (&options.trust, options.token.clone());
                    Session::Grpc(grpc::Session::open(server, trust, token).await?)
                }
            })
        };
        let opening = async {
            let mut session = opening.await?;
            if let Some(provider) = &options.token {
                session.authenticate(provider).await?;
            }
            Ok(session)
        };
        let timeout = options.connect_timeout;
        tokio::time::timeout(timeout, opening)
            .await
            .unwrap_or_else(|_| Err(SessionEnd::retryable(format!("no reply within {timeout:?}"))))
    }

    /// Sends the present token, which the server verifies before the requests that follow. The reply arrives
    /// as an event. A gRPC session sends it with each call instead.
    pub(crate) async fn authenticate(
        &mut self,
        provider: &TokenProvider,
    ) -> Result<(), SessionEnd> {
        if matches!(self, Session::Grpc(_)) {
            return Ok(());
        }
        let token = provider.token().await.map_err(SessionEnd::retryable)?;
        let command = ClientCommand::Authenticate { token };
        self.send(&ClientRequest { id: Some(AUTHENTICATE_ID), command }).await
    }

    /// Requests a subscription. The reply arrives as an event.
    pub(crate) async fn subscribe(
        &mut self,
        request: SubscriptionRequest,
    ) -> Result<(), SessionEnd> {
        match self {
            Session::Grpc(session) => {
                session.subscribe(request);
                Ok(())
            }
            #[cfg(any(feature = "quic", feature = "websocket"))]
            _ => self.send(&request.into()).await,
        }
    }

    /// Ends the subscription of a topic. The confirmation arrives as an event.
    pub(crate) async fn unsubscribe(&mut self, id: u64, topic: &Topic) -> Result<(), SessionEnd> {
        match self {
            Session::Grpc(session) => session.unsubscribe(id, topic),
            #[cfg(feature = "quic")]
            Session::Quic(session) => session.on_unsubscribe(topic),
            #[cfg(feature = "websocket")]
            Session::Ws(_) => {}
        }
        let command = ClientCommand::Unsubscribe { topic: topic.clone() };
        self.send(&ClientRequest { id: Some(id), command }).await
    }

    /// Sends a request, except over gRPC, which has a call for each.
    #[cfg_attr(
        not(any(feature = "quic", feature = "websocket")),
        expect(unused_variables, reason = "there is no other transport")
    )]
    async fn send(&mut self, request: &ClientRequest) -> Result<(), SessionEnd> {
        match self {
            #[cfg(feature = "websocket")]
            Session::Ws(session) => session.send(request).await,
            #[cfg(feature = "quic")]
            Session::Quic(session) => session.send(request).await,
            Session::Grpc(_) => Ok(()),
        }
    }

    /// Closes the session, so that the server does not take it for lost. A QUIC connection and the calls of gRPC are
    /// closed when they are dropped.
    pub(crate) async fn close(self) {
        #[cfg(feature = "websocket")]
        if let Session::Ws(session) = self {
            session.close().await;
        }
    }

    /// The next event, or the end of the session. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<ServerEvent, SessionEnd> {
        let next = async {
            match self {
                #[cfg(feature = "websocket")]
                Session::Ws(session) => session.next().await,
                #[cfg(feature = "quic")]
                Session::Quic(session) => session.next().await,
                Session::Grpc(session) => session.next().await,
            }
        };
        tokio::time::timeout(IDLE_TIMEOUT, next).await.unwrap_or_else(|_| {
            Err(SessionEnd::retryable(format!("no frame for {IDLE_TIMEOUT:?}")))
        })
    }
}

impl SessionEnd {
    fn new(reason: impl fmt::Display, reconnect: Reconnect, cause: EndCause) -> SessionEnd {
        SessionEnd { reason: reason.to_string(), reconnect, cause }
    }

    /// A failure after which to reconnect.
    pub(crate) fn retryable(reason: impl fmt::Display) -> SessionEnd {
        SessionEnd::new(reason, Reconnect::Yes, EndCause::Other)
    }

    /// A failure that a reconnect would not fix.
    pub(crate) fn permanent(reason: impl fmt::Display) -> SessionEnd {
        SessionEnd::new(reason, Reconnect::No, EndCause::Other)
    }

    /// A server whose certificate is not accepted, for this reason.
    pub(crate) fn untrusted(rejection: String) -> SessionEnd {
        SessionEnd::new(rejection, Reconnect::No, EndCause::Certificate)
    }

    /// A server that does not speak the protocol of the transport.
    pub(crate) fn wrong_protocol(rejection: String) -> SessionEnd {
        SessionEnd::new(rejection, Reconnect::No, EndCause::Protocol)
    }

    /// The end of a session that was closed with `code`.
    #[cfg(any(feature = "quic", feature = "websocket"))]
    pub(crate) fn from_close_code(code: u16, reason: &str) -> SessionEnd {
        let reconnect =
            pushonce_proto::close::from_code(code).map_or(Reconnect::Yes, |close| close.reconnect);
        let reason = format!("the server closed the session: {code} {reason}");
        SessionEnd::new(reason, reconnect, EndCause::Other)
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
        ConnectOptions {
            transport: Transport::default(),
            trust: CertificateTrust::default(),
            encoding: Encoding::Proto,
            token: None,
            connect_timeout: CONNECT_TIMEOUT,
            backoff: RECONNECT_BACKOFF,
        }
    }
}
