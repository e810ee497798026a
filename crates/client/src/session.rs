//! One session with one node, whatever it is carried by.

mod grpc;
mod quic;
mod trust;
mod ws;

use std::time::Duration;

use pushonce_proto::client::{Command, Encoding, Event, Request};
use pushonce_proto::close::{self, Reconnect};

use crate::progress::Ask;
use crate::server::{Scheme, Server};

pub(crate) use grpc::connect as grpc_connect;
pub use trust::Trust;

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
    pub(crate) fn takes(self, scheme: Scheme) -> bool {
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
pub(crate) struct Dial {
    pub(crate) transport: Transport,
    pub(crate) trust: Trust,
    pub(crate) encoding: Encoding,
}

/// How a session ended, and what to do about it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) why: String,
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
const SILENCE_MAX: Duration = Duration::from_millis(62_500);

impl Session {
    pub(crate) async fn open(dial: &Dial, server: &Server) -> Result<Session, Ended> {
        let opening = async {
            Ok(match dial.transport {
                Transport::Ws => {
                    Session::Ws(Box::new(ws::Session::open(server, dial.encoding).await?))
                }
                Transport::Quic => Session::Quic(quic::Session::open(server, &dial.trust).await?),
                Transport::Grpc => Session::Grpc(grpc::Session::open(server).await?),
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opening)
            .await
            .unwrap_or_else(|_| Err(Ended::again(format!("no answer within {CONNECT_TIMEOUT:?}"))))
    }

    /// Asks for a topic. The answer comes as an event.
    pub(crate) async fn subscribe(&mut self, ask: Ask) -> Result<(), Ended> {
        match self {
            Session::Ws(session) => session.send(&ask.into()).await,
            Session::Quic(session) => session.send(&ask.into()).await,
            Session::Grpc(session) => {
                session.subscribe(ask);
                Ok(())
            }
        }
    }

    /// The next event, or the end. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Event, Ended> {
        let next = async {
            match self {
                Session::Ws(session) => session.next().await,
                Session::Quic(session) => session.next().await,
                Session::Grpc(session) => session.next().await,
            }
        };
        tokio::time::timeout(SILENCE_MAX, next)
            .await
            .unwrap_or_else(|_| Err(Ended::again(format!("silence for {SILENCE_MAX:?}"))))
    }
}

impl Ended {
    /// Something broke: try again.
    pub(crate) fn again(why: impl std::fmt::Display) -> Ended {
        Ended { why: why.to_string(), reconnect: Reconnect::Yes }
    }

    /// It will not be better another time.
    pub(crate) fn for_good(why: impl std::fmt::Display) -> Ended {
        Ended { why: why.to_string(), reconnect: Reconnect::No }
    }

    /// What a close code asks for.
    pub(crate) fn closed(code: u16, reason: &str) -> Ended {
        let reconnect = close::of(code).map_or(Reconnect::Yes, |close| close.reconnect);
        Ended { why: format!("the server closed the session: {code} {reason}"), reconnect }
    }
}

impl From<Ask> for Request {
    fn from(Ask { id, topic, from, options }: Ask) -> Request {
        Request { id: Some(id), command: Command::Subscribe { topic, from, options } }
    }
}

impl Default for Dial {
    fn default() -> Dial {
        let (transport, trust) = (Transport::default(), Trust::default());
        Dial { transport, trust, encoding: Encoding::Proto }
    }
}
