//! A session over QUIC: a control stream, a stream for each topic, and datagrams for topics that are
//! asked for so.

mod datagrams;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Epoch, Topic};
use pushonce_proto::client::{Encoding, Event, Request};
use pushonce_proto::delimited::{self, Decoder};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig,
    VarInt,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Ended, Trust};
use crate::server::Server;

/// What the server offers on its UDP port beside HTTP/3.
const ALPN: &[u8] = b"pushonce/1";

/// As for WebSocket.
const FRAME_BYTES_MAX: usize = 2 << 20;

/// Events that wait for the caller. A full queue stops the reading, and with it the server.
const EVENTS_MAX: usize = 256;

/// Shorter than most NATs forget a flow in, and so short that a lost one does not end a session.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A node that died sends nothing, not even that it is gone: what does not answer for so long is
/// left for another. As patient as gRPC's keep-alive.
const SILENCE_MAX: VarInt = VarInt::from_u32(10_000);

/// Less than half of what opening a session may take, so that a second address has its chance.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);

/// What one topic may have under way, and all of them together: what a caller does not take waits
/// at the server, not here.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Datagrams that wait to be read, which they are at once.
const DATAGRAM_BYTES: usize = 256 << 10;

/// The code of a close comes after the ends of the streams, if it comes.
const LAST_WORD: Duration = Duration::from_secs(1);

pub(crate) struct Session {
    control: SendStream,
    events: mpsc::Receiver<Result<Event, Ended>>,
    /// Reads the streams; ends with the session.
    _readers: JoinSet<()>,
    connection: Connection,
    _endpoint: Endpoint,
}

impl Session {
    pub(super) async fn open(server: &Server, trust: &Trust) -> Result<Session, Ended> {
        let (endpoint, connection) = connect(server, trust).await?;
        let (control, answers) = connection.open_bi().await.map_err(ended)?;
        let (send, events) = mpsc::channel(EVENTS_MAX);
        let shared = Shared {
            connection: connection.clone(),
            events: send,
            begun: watch::channel(HashMap::new()).0.into(),
        };
        let mut readers = JoinSet::new();
        readers.spawn(read(answers, shared.clone()));
        readers.spawn(datagrams::read(shared.clone()));
        readers.spawn(accept(shared));
        Ok(Session { control, events, _readers: readers, connection, _endpoint: endpoint })
    }

    pub(super) async fn send(&mut self, request: &Request) -> Result<(), Ended> {
        let frame = delimited::encode(&Encoding::Proto.encode_request(request));
        self.control.write_all(&frame).await.map_err(Ended::again)
    }

    pub(super) async fn next(&mut self) -> Result<Event, Ended> {
        match self.events.recv().await {
            Some(event) => event,
            None => Err(Ended::again("the connection ended")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(1000), b"normal");
    }
}

/// Tries every address of the server: nothing refuses on UDP, so one where nobody listens is only
/// silent.
async fn connect(server: &Server, trust: &Trust) -> Result<(Endpoint, Connection), Ended> {
    let addresses = tokio::net::lookup_host(server.authority()).await.map_err(Ended::again)?;
    let mut last = Ended::again(format!("{server} has no address"));
    for address in addresses {
        let connecting = connect_to(address, server, trust);
        last = match tokio::time::timeout(ADDRESS_TIMEOUT, connecting).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(ended)) => ended,
            Err(_) => Ended::again(format!("no answer from {address}")),
        };
    }
    Err(last)
}

async fn connect_to(
    address: SocketAddr,
    server: &Server,
    trust: &Trust,
) -> Result<(Endpoint, Connection), Ended> {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = Endpoint::client(local).map_err(Ended::again)?;
    let name = server.host.trim_matches(['[', ']']);
    let connecting = endpoint.connect_with(config(address, trust)?, address, name);
    let connection = connecting.map_err(Ended::for_good)?.await.map_err(ended)?;
    Ok((endpoint, connection))
}

fn config(address: SocketAddr, trust: &Trust) -> Result<ClientConfig, Ended> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = trust.verifier(address, &provider).map_err(Ended::for_good)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Ended::for_good)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config =
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(Ended::for_good)?));
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_idle_timeout(Some(SILENCE_MAX.into()));
    transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    transport.receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    transport.datagram_receive_buffer_size(Some(DATAGRAM_BYTES));
    // A topic is a stream of the server's: as many as a session may have topics.
    transport.max_concurrent_uni_streams(VarInt::from_u32(1024));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// What the readers of a session share.
#[derive(Clone)]
struct Shared {
    connection: Connection,
    events: mpsc::Sender<Result<Event, Ended>>,
    /// The topics that were said to be subscribed, and the epoch that the stream of each has come to; 0:
    /// to none. Nothing orders the streams and the datagrams, and the caller is to hear of a
    /// subscription before its first message, and of a new epoch by its gap.
    begun: Arc<watch::Sender<HashMap<Topic, Epoch>>>,
}

/// Every stream that the server opens is a topic's.
async fn accept(shared: Shared) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = shared.connection.accept_uni() => match stream {
                Ok(stream) => { readers.spawn(read(stream, shared.clone())); }
                Err(why) => return shared.end(ended(why)).await,
            },
            Some(_) = readers.join_next() => {}
        }
    }
}

/// Reads a stream to its end, which is the end of the session: a server ends a topic's stream only
/// when it is asked to, and a topic without one would be silent for ever.
async fn read(mut stream: RecvStream, shared: Shared) {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    let mut epoch = Epoch(0);
    while let Ok(Some(chunk)) = stream.read_chunk(64 << 10, true).await {
        decoder.push(&chunk.bytes);
        loop {
            let event = match decoder.next() {
                Ok(Some(frame)) => Encoding::Proto.decode_event(&frame),
                Ok(None) => break,
                Err(why) => return shared.end(Ended::again(why)).await,
            };
            match event {
                Ok(event) => shared.tell(event, &mut epoch).await,
                Err(why) if why.broken => return shared.end(Ended::again(why)).await,
                // From a newer server: not for us.
                Err(_) => {}
            }
        }
    }
    let closed = tokio::time::timeout(LAST_WORD, shared.connection.closed()).await;
    shared.end(closed.map_or_else(|_| Ended::again("the server ended a stream"), ended)).await;
}

// === impl Shared ===

impl Shared {
    /// Tells what came on a stream that has come to `epoch`.
    async fn tell(&self, event: Event, epoch: &mut Epoch) {
        let begins = match &event {
            Event::Stream { topic } => {
                // Fails only without a sender, and here is one.
                let _ = self.begun.subscribe().wait_for(|begun| begun.contains_key(topic)).await;
                return;
            }
            Event::Subscribed { topic, .. } => Some((topic.clone(), Epoch(0))),
            Event::Message { topic, message } if message.position.epoch != *epoch => {
                Some((topic.clone(), message.position.epoch))
            }
            Event::Gap { topic, gap } if gap.to.epoch != *epoch => {
                Some((topic.clone(), gap.to.epoch))
            }
            _ => None,
        };
        // Whoever is gone does not want to know.
        let _ = self.events.send(Ok(event)).await;
        if let Some((topic, begun)) = begins {
            *epoch = begun;
            self.begun.send_modify(|topics| {
                topics.insert(topic, begun);
            });
        }
    }

    async fn end(&self, ended: Ended) {
        let _ = self.events.send(Err(ended)).await;
    }
}

fn ended(why: ConnectionError) -> Ended {
    match why {
        ConnectionError::ApplicationClosed(close) => {
            let code = u16::try_from(close.error_code.into_inner()).unwrap_or(0);
            Ended::closed(code, &String::from_utf8_lossy(&close.reason))
        }
        other => Ended::again(other),
    }
}
